"""Face boxes from OpenCV's own Haar cascade, which its package carries, so that nothing is downloaded."""

from pathlib import Path

import cv2
import numpy as np

_LARGEST_SIDE = 480  # pixels; the cascade is slow on more and no better


class HaarDetector:
    """Viola–Jones frontal faces (Viola & Jones, CVPR 2001)."""

    def __init__(self):
        path = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"
        self._cascade = cv2.CascadeClassifier(str(path))
        if self._cascade.empty():
            raise ValueError(f"{path} is missing: install opencv-python-headless 4.x, or give boxes.")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) of the faces in an image (H, W, 3) uint8 RGB, the largest first.

        A box is what the landmarks of a face span, brows to chin, as far as the cascade can tell.
        """
        scale = min(1.0, _LARGEST_SIDE / max(image.shape[:2]))
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        smallest = max(round(0.08 * min(grey.shape)), 24)
        found = self._cascade.detectMultiScale(grey, 1.1, 5, minSize=(smallest, smallest))
        squares = np.array(found, np.float64).reshape(-1, 4) / scale
        squares = squares[np.argsort(-squares[:, 2])]
        # The cascade's square reaches from the forehead to the lip; the landmarks sit lower and are narrower.
        x, y, side = squares[:, 0], squares[:, 1], squares[:, 2]
        return np.stack([x + 0.12 * side, y + 0.22 * side, x + 0.88 * side, y + 1.02 * side], axis=1)

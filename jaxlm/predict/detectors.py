"""Face detectors: OpenCV's Haar cascades (in its package), CenterFace or YuNet (from ONNX files), or the whole picture.

They may be called from several threads. OpenCV's own objects keep state during a call and release Python's lock, so
every thread gets objects of its own.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np

# image (H, W, 3) uint8 RGB -> boxes (N, 4) around the faces' landmarks, the largest first
Detector = Callable[[np.ndarray], np.ndarray]

Held = TypeVar("Held")

DETECTORS = ("haar", "centerface", "yunet", "whole")
_LEAST_VOTES = 0.25  # of the largest number of votes in the picture
_LARGEST_SIDE = 480  # pixels; on larger images the cascades are slower and no better
_FIRST_SIDE = 160  # pixels of the first search, for faces of at least the next share of the picture's shorter side
_LARGE_FACE = 0.3
_CENTERFACE_SIDES = (256, 640)  # pixels of its first and second search
# Extent of 68 and 98 landmarks in a detector's box of width and height 1: left, top, right, bottom.
_IN_FRONTAL = (0.12, 0.22, 0.88, 1.02)
_IN_PROFILE = (0.05, 0.28, 0.77, 1.02)
_IN_YUNET = (0.0, 0.22, 1.0, 1.0)
_IN_CENTERFACE = (0.0, 0.262, 0.993, 1.005)  # medians on the pictures of LFPW with even numbers


def make_detector(name: str, file: str | Path | None = None) -> Detector:
    """Face detector with the given name.

    Args:
        name: one of `DETECTORS`.
        file: ONNX file of CenterFace or YuNet.

    Raises:
        ValueError: if the name is unknown, or a detector's file is missing or cannot be read.
    """
    if name == "haar":
        return HaarDetector()
    if name == "whole":
        return whole_picture
    if name == "centerface":
        return CenterFaceDetector(_onnx_file(name, "centerface.onnx", file))
    if name == "yunet":
        return YuNetDetector(_onnx_file(name, "face_detection_yunet_2023mar.onnx", file))
    raise ValueError(f"There is no detector {name!r}; choose one of {', '.join(DETECTORS)}.")


def _onnx_file(name: str, usual: str, file: str | Path | None) -> Path:
    if file is None:
        raise ValueError(f"The detector {name} needs its model: --detector-file={usual}.")
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give the ONNX file of {name}.")
    return path


def whole_picture(image: np.ndarray) -> np.ndarray:
    """Box (1, 4) that covers the whole picture."""
    height, width = image.shape[:2]
    return np.array([[-0.5, -0.5, width - 0.5, height - 0.5]])


class _PerThread(Generic[Held]):
    """An object for each thread that asks for it; the first one is made at once, so that mistakes show."""

    def __init__(self, make: Callable[[], Held]):
        self._make, self._held = make, threading.local()
        self()

    def __call__(self) -> Held:
        if not hasattr(self._held, "value"):
            self._held.value = self._make()
        return self._held.value


class HaarDetector:
    """Viola–Jones detector (Viola & Jones, CVPR 2001) of frontal faces and, if there are none, of profiles.

    It looks at a small copy of the picture first. Only if that shows no large face, it searches the picture itself,
    which takes four times as long. Beside a large face, faces under 15 % of the picture's shorter side are not found.
    """

    def __init__(self):
        self._frontal = _PerThread(lambda: _cascade("frontalface_default"))
        self._profile = _PerThread(lambda: _cascade("profileface"))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) of the faces in an image (H, W, 3) uint8 RGB, the largest first.

        Each box is an estimate of the box around the face's landmarks, from the brows to the chin.
        """
        whole = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        grey, scale = _shrunk(whole, _FIRST_SIDE)
        found = _detect(self._frontal(), grey)
        if found[:, 2].max(initial=0) < _LARGE_FACE * min(grey.shape):
            grey, scale = _shrunk(whole, _LARGEST_SIDE)
            found = _detect(self._frontal(), grey)
        boxes = _inner(found, _IN_FRONTAL)
        if len(boxes) == 0:
            boxes = _inner(
                _detect(self._profile(), grey), _IN_PROFILE
            )  # this cascade finds faces that look to the left
        if len(boxes) == 0:
            mirrored = _inner(_detect(self._profile(), grey[:, ::-1].copy()), _IN_PROFILE)
            boxes = np.stack(
                [grey.shape[1] - mirrored[:, 2], mirrored[:, 1], grey.shape[1] - mirrored[:, 0], mirrored[:, 3]], axis=1
            )
        return _largest_first(boxes / scale - 0.5)  # pixel edges, in coordinates with integer pixel centres


def _cascade(name: str) -> Any:
    path = Path(cv2.__file__).parent / "data" / f"haarcascade_{name}.xml"
    make = getattr(cv2, "CascadeClassifier", None)  # OpenCV 5 has none; everything else works with it
    cascade = make(str(path)) if make else None
    if cascade is None or cascade.empty():
        raise ValueError(f"{path} is missing: install opencv-python-headless 4.x, or give boxes.")
    return cascade


def _shrunk(grey: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """The image with its longer side at most `side` pixels long, and its scale."""
    scale = min(1.0, side / max(grey.shape))
    size = [max(round(length * scale), 1) for length in grey.shape[::-1]]
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA), scale


def _detect(cascade: Any, grey: np.ndarray) -> np.ndarray:
    """Boxes (N, 4), x y width height, that a cascade finds in a grey image (H, W)."""
    if min(grey.shape) < 24:
        return np.zeros((0, 4))
    smallest = max(round(0.08 * min(grey.shape)), 24)
    found, votes = cascade.detectMultiScale2(grey, 1.1, 5, minSize=(smallest, smallest))
    boxes, votes = np.array(found, np.float64).reshape(-1, 4), np.array(votes).ravel()
    # A false detection, such as a collar, has a few votes; a face has dozens.
    return boxes[votes >= _LEAST_VOTES * votes.max(initial=0)]


def _inner(boxes: np.ndarray, part: tuple[float, float, float, float]) -> np.ndarray:
    """Boxes (N, 4) x1 y1 x2 y2 of a part of boxes x y width height; the part as fractions of their sides."""
    x, y, width, height = boxes.T
    left, top, right, bottom = part
    return np.stack([x + left * width, y + top * height, x + right * width, y + bottom * height], axis=1)


def _largest_first(boxes: np.ndarray) -> np.ndarray:
    return boxes[np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")]


class CenterFaceDetector:
    """CenterFace detector (Xu et al., Scientific Programming 2020), run by OpenCV from its published ONNX file.

    It looks at a small copy of the picture first, as `HaarDetector` does, and at a larger one only if that shows no
    large face.

    Args:
        path: the file `centerface.onnx`.
        min_score: lowest score of a detected face.

    Raises:
        ValueError: if the file is not a model that OpenCV reads.
    """

    def __init__(self, path: Path, min_score: float = 0.5):
        # OpenCV gives wrong results when the size of a network's input changes, so each size has a network.
        self._networks = {side: _PerThread(lambda: _network(path)) for side in _CENTERFACE_SIDES}
        self._min_score = min_score

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) of the faces in an image, see `HaarDetector.__call__`."""
        found = np.zeros((0, 4))
        for side in _CENTERFACE_SIDES:
            found, scale = self._search(image, side)
            if scale == 1 or found[:, 3].max(initial=0) >= _LARGE_FACE * scale * min(image.shape[:2]):
                break
        return _largest_first(_inner(found, _IN_CENTERFACE) / scale - 0.5)

    def _search(self, image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
        """Boxes (N, 4), x y width height, in a copy of the image that fits into a square, and the copy's scale."""
        scale = min(1.0, side / max(image.shape[:2]))
        size = [max(round(length * scale), 1) for length in image.shape[1::-1]]
        square = np.zeros((side, side, 3), np.uint8)
        square[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        network = self._networks[side]()
        network.setInput(cv2.dnn.blobFromImage(square))
        heat, lengths, offsets = (maps[0] for maps in network.forward(["537", "538", "539"]))
        rows, columns = np.nonzero(heat[0] >= self._min_score)
        height, width = 4 * np.exp(lengths[:, rows, columns].astype(np.float64))  # cells are 4 pixels wide
        y, x = 4 * (np.stack([rows, columns]) + 0.5 + offsets[:, rows, columns])
        boxes = np.stack([x - width / 2, y - height / 2, width, height], axis=1)
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), heat[0, rows, columns].tolist(), self._min_score, 0.3)
        return boxes[np.asarray(kept, int).ravel()], scale


def _network(path: Path) -> Any:
    try:
        network = cv2.dnn.readNetFromONNX(str(path))
        outputs = set(network.getUnconnectedOutLayersNames())
    except cv2.error:
        outputs, network = set(), None
    if not {"537", "538", "539"} <= outputs:
        raise ValueError(f"{path} is not the CenterFace model that OpenCV reads; give its ONNX file.")
    return network


class YuNetDetector:
    """YuNet detector (Wu et al., Machine Intelligence Research 2023), run by OpenCV from its published ONNX file.

    Args:
        path: the file `face_detection_yunet_….onnx`.
        min_score: lowest score of a detected face.

    Raises:
        ValueError: if the file is not a model that OpenCV reads.
    """

    def __init__(self, path: Path, min_score: float = 0.6):
        try:
            self._network = _PerThread(lambda: cv2.FaceDetectorYN.create(str(path), "", (320, 320), min_score))
        except cv2.error:
            raise ValueError(f"{path} is not a model that OpenCV reads; give YuNet's ONNX file.") from None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) of the faces in an image, see `HaarDetector.__call__`."""
        scale = min(1.0, 2 * _LARGEST_SIDE / max(image.shape[:2]))
        small = cv2.resize(
            cv2.cvtColor(image, cv2.COLOR_RGB2BGR), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
        )
        network = self._network()
        network.setInputSize((small.shape[1], small.shape[0]))
        _, found = network.detect(small)
        if found is None:
            return np.zeros((0, 4))
        return _largest_first(_inner(np.asarray(found, np.float64)[:, :4], _IN_YUNET) / scale)


def without_overlaps(boxes: list[np.ndarray], most: float = 0.5) -> list[int]:
    """Positions of the boxes that remain after each box that overlaps an earlier one is removed.

    Args:
        boxes: (4,) each; an earlier box has precedence.
        most: largest allowed overlap, as intersection over the smaller of both areas.
    """
    kept: list[int] = []
    for position, box in enumerate(boxes):
        if all(_shared(box, boxes[other]) <= most for other in kept):
            kept.append(position)
    return kept


def _shared(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection of two boxes (4,) over the smaller of their areas."""
    common = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0.0))
    return float(common / min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2])))

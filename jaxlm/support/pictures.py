"""Decodes, resamples and writes pictures."""

from pathlib import Path

import cv2
import numpy as np

from jaxlm import geometry
from jaxlm.support.files import write_bytes_atomically


def warp(image: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """Samples `image` (H, W, 3) uint8 under `transform` (image → crop) into (size, size, 3); black outside.

    If the crop has less than half the image's resolution, the image is first shrunk by averaging, to avoid aliasing.
    """
    scale = np.sqrt(abs(np.linalg.det(transform[:, :2])))
    if scale < 0.5:
        height, width = image.shape[:2]
        small = max(round(width * scale), 1), max(round(height * scale), 1)
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        sx, sy = width / small[0], height / small[1]
        enlarge = np.array([[sx, 0.0, 0.5 * sx - 0.5], [0.0, sy, 0.5 * sy - 0.5]])
        transform = geometry.compose_affine(transform, enlarge)
    return cv2.warpAffine(image, transform, (size, size), flags=cv2.INTER_LINEAR)


def decode_image(content: bytes, *, upright: bool = False) -> np.ndarray | None:
    """Picture (H, W, 3) uint8 RGB from the bytes of a JPEG, PNG, … file; None if they cannot be decoded.

    Grey, 16-bit and CMYK pictures are converted.

    Args:
        content: bytes of the file.
        upright: whether the picture is turned as its EXIF says, as viewers do. The landmarks of data sets are in the
            stored pixels.
    """
    flags = cv2.IMREAD_COLOR | (0 if upright else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None
    return None if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes a picture (H, W, 3) uint8 RGB atomically, as PNG or JPEG by the ending of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    write_bytes_atomically(path, lambda file: file.write(encoded.tobytes()))


def picture_change(before: np.ndarray, after: np.ndarray, side: int = 16) -> float:
    """1 − correlation of two pictures of one size at `side` × `side` pixels: 0 for the same, about 1 at a scene cut.

    An object that passes in front of a face changes a part of the picture, a cut all of it.
    """
    small = [
        cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA).astype(np.float64)
        for picture in (before, after)
    ]
    a, b = (values - values.mean(axis=(0, 1)) for values in small)
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    if max(lengths) < side:  # two pictures of one colour each, up to their noise
        return 0.0
    return 1.0 - float(np.vdot(a, b) / max(lengths[0] * lengths[1], 1e-9))

"""Boxes, affine maps and pixel conventions.

Pixel centres lie at integers, the top-left one at (0, 0); a resize by s maps p to (p + ½) s − ½. Points are (x, y),
boxes x1 y1 x2 y2 with x2 − x1 their width. An affine map is a 2×3 matrix M, p' = M [p; 1]. The functions are written
for NumPy and JAX arrays alike, so that the host pipeline and jitted code share them.
"""

from typing import Any

import numpy as np

Points = Any  # (..., K, 2), NumPy or JAX
Matrix = Any  # (..., 2, 3)
Box = Any  # (..., 4)


def rescale_points(points: Points, scale: float) -> Points:
    """Coordinates after the image is resized by `scale`: (p + ½) s − ½."""
    return (points + 0.5) * scale - 0.5


def apply_affine(matrix: Matrix, points: Points) -> Points:
    """Maps points (..., K, 2) by matrices (..., 2, 3)."""
    return points @ matrix[..., :2].swapaxes(-1, -2) + matrix[..., None, :, 2]


def invert_affine(matrix: np.ndarray) -> np.ndarray:
    """Inverse map, (..., 2, 3).

    Raises:
        numpy.linalg.LinAlgError: for a singular matrix.
    """
    linear = np.linalg.inv(matrix[..., :2])
    return np.concatenate([linear, -linear @ matrix[..., 2:]], axis=-1)


def compose_affine(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The map that applies `inner`, then `outer`."""
    linear = outer[..., :2] @ inner[..., :2]
    return np.concatenate([linear, outer[..., :2] @ inner[..., 2:] + outer[..., 2:]], axis=-1)


def similarity(scale: float, degrees: float, center: Points, target: Points) -> np.ndarray:
    """Scales and rotates about `center`, which goes to `target`.

    Args:
        scale: factor.
        degrees: angle; positive turns x towards y, clockwise on the screen.
        center: (2,) fixed point in the source.
        target: (2,) where it goes.

    Returns:
        (2, 3) matrix.
    """
    cos, sin = scale * np.cos(np.deg2rad(degrees)), scale * np.sin(np.deg2rad(degrees))
    linear = np.array([[cos, -sin], [sin, cos]])
    offset = np.asarray(target) - linear @ np.asarray(center)
    return np.concatenate([linear, offset[:, None]], axis=1)


def box_to_crop(box: Box, size: int) -> np.ndarray:
    """Map that takes a square box onto a crop of `size` × `size` pixels: image → crop.

    The box is in continuous coordinates of pixel centres, so that [−½, w − ½] covers an image of width w exactly.
    """
    x1, y1, x2, y2 = np.asarray(box, np.float64)
    scale = size / max(x2 - x1, y2 - y1)
    center = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    return similarity(scale, 0.0, center, np.full(2, (size - 1) / 2))


def box_of_points(points: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Tight box (4,) around the points (K, 2) that exist, mask (K,).

    Raises:
        ValueError: if no point exists.
    """
    points = points if mask is None else points[mask]
    if len(points) == 0:
        raise ValueError("No landmark exists, so there is no box around them.")
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def square_box(box: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """Square (4,) with the box's centre and `factor` times its longer side."""
    center = (box[:2] + box[2:]) / 2
    half = factor * max(box[2] - box[0], box[3] - box[1]) / 2
    return np.concatenate([center - half, center + half])


def scale_box(box: np.ndarray, factor: float) -> np.ndarray:
    """Box (4,) with the same centre, both sides times `factor`."""
    center, half = (box[:2] + box[2:]) / 2, factor * (box[2:] - box[:2]) / 2
    return np.concatenate([center - half, center + half])


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (4,); NaN where either is."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = np.prod(np.where(np.isnan(sides), np.nan, np.maximum(sides, 0.0)))
    return float(common / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common))

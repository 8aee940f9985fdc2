"""Boxes, affine maps and pixel conventions.

Pixel centres lie at integers, the top-left one at (0, 0); a resize by s maps p to (p + ½) s − ½. Points are (x, y),
boxes x1 y1 x2 y2 with x2 − x1 their width. An affine map is a 2×3 matrix M, p' = M [p; 1]. The functions of
points and matrices accept NumPy and JAX arrays, because the host pipeline and jitted code share them. Inside networks
an image spans [−1, 1] in both directions, edge to edge, at any resolution: pixel p of n is (2 p + 1)/n − 1.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

Points = Any  # (..., K, 2), NumPy or JAX
Matrix = Any  # (..., 2, 3)
Box = Any  # (..., 4)


def rescale_points(points: Points, scale: float) -> Points:
    """Coordinates after the image is resized by `scale`: (p + ½) s − ½."""
    return (points + 0.5) * scale - 0.5


def to_unit(points: Points, size: int) -> Points:
    """Converts pixels of an image of `size` × `size` to [−1, 1], edge to edge."""
    return (2.0 * points + 1.0) / size - 1.0


def from_unit(points: Points, size: int) -> Points:
    """Inverse of `to_unit`."""
    return ((points + 1.0) * size - 1.0) / 2.0


def unit_to_pixels(matrix: Matrix, source: int, target: int) -> Matrix:
    """Converts a map (..., 2, 3) of [−1, 1]² to pixels, from an image of side `source` to one of side `target`."""
    linear = matrix[..., :2] * (target / source)
    offset = from_unit(matrix[..., 2] + matrix[..., :2].sum(axis=-1) * (1 / source - 1), target)
    return _module(matrix).concatenate([linear, offset[..., None]], axis=-1)


def apply_affine(matrix: Matrix, points: Points) -> Points:
    """Maps points (..., K, 2) by matrices (..., 2, 3)."""
    return points @ matrix[..., :2].swapaxes(-1, -2) + matrix[..., None, :, 2]


def invert_affine(matrix: Matrix) -> Matrix:
    """Inverse map, (..., 2, 3).

    Raises:
        numpy.linalg.LinAlgError: if a NumPy matrix is singular. A singular JAX matrix gives values that are not finite.
    """
    xp = _module(matrix)
    a, b, c, d = (matrix[..., row, column] for row in (0, 1) for column in (0, 1))
    determinant = a * d - b * c
    if xp is np and (determinant == 0).any():
        raise np.linalg.LinAlgError("The affine map is singular.")
    linear = xp.stack([xp.stack([d, -b], -1), xp.stack([-c, a], -1)], -2) / determinant[..., None, None]
    return xp.concatenate([linear, -linear @ matrix[..., 2:]], axis=-1)


def compose_affine(outer: Matrix, inner: Matrix) -> Matrix:
    """Map (..., 2, 3) that applies `inner`, then `outer`."""
    linear = outer[..., :2] @ inner[..., :2]
    return _module(outer).concatenate([linear, outer[..., :2] @ inner[..., 2:] + outer[..., 2:]], axis=-1)


def _module(array: Any) -> Any:
    return np if isinstance(array, np.ndarray) else jnp


def similarity(scale: float, degrees: float, center: Points, target: Points) -> np.ndarray:
    """Matrix that scales and rotates about `center` and moves `center` to `target`.

    Args:
        scale: factor of all lengths.
        degrees: angle; positive turns x towards y, clockwise on the screen.
        center: (2,) point in the source.
        target: (2,) position of `center` after the map.

    Returns:
        (2, 3) matrix.
    """
    cos, sin = scale * np.cos(np.deg2rad(degrees)), scale * np.sin(np.deg2rad(degrees))
    linear = np.array([[cos, -sin], [sin, cos]])
    offset = np.asarray(target) - linear @ np.asarray(center)
    return np.concatenate([linear, offset[:, None]], axis=1)


def similarity_between(source: Points, target: Points) -> np.ndarray:
    """Least-squares similarity (2, 3) from points (K, 2) to others, in NumPy.

    `jaxlm.systems.reinit.alignment.fit_similarity` is differentiable and has weights.
    """
    start, end = (np.asarray(points, np.float64) @ [1, 1j] for points in (source, target))
    centered = start - start.mean()
    factor = np.vdot(centered, end) / max(np.vdot(centered, centered).real, 1e-12)
    offset = end.mean() - factor * start.mean()
    return np.array([[factor.real, -factor.imag, offset.real], [factor.imag, factor.real, offset.imag]])


def box_to_crop(box: Box, size: int) -> np.ndarray:
    """Map (2, 3) from the image to a crop of `size` × `size` pixels that the box fills.

    A box that is not square is stretched. Its coordinates are continuous, with pixel centres at integers: [−½, w − ½]
    covers an image of width w exactly.

    Raises:
        ValueError: if the box has no area.
    """
    x1, y1, x2, y2 = np.asarray(box, np.float64)
    if not (x2 > x1 and y2 > y1):
        raise ValueError(f"The box {x1:g} {y1:g} {x2:g} {y2:g} has no area: x2 must exceed x1, and y2 must exceed y1.")
    scale = size / np.array([x2 - x1, y2 - y1])
    center = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
    return np.concatenate([np.diag(scale), ((size - 1) / 2 - scale * center)[:, None]], axis=1)


def box_of_points(points: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Tight box (4,) around the points (K, 2), or around those where `mask` (K,) is true.

    Raises:
        ValueError: if no point exists.
    """
    points = points if mask is None else points[mask]
    if len(points) == 0:
        raise ValueError("No landmark exists, so the box around the landmarks is undefined.")
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
    """Intersection over union of two boxes (4,); NaN if either box contains a NaN."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = np.prod(np.where(np.isnan(sides), np.nan, np.maximum(sides, 0.0)))
    return float(common / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common))

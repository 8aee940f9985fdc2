"""Conversion between heatmaps and landmarks.

Heatmaps are (..., H, W, K), landmarks (..., K, 2) as (x, y) in cells. A heatmap cell is a pixel of a smaller image (see
`jaxlm.geometry`).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def soft_argmax(heatmaps: Float[Array, "*B H W K"]) -> Float[Array, "*B K 2"]:
    """Mean position over the cells, weighted by the heatmap: Φ of Micaelli et al., CVPR 2023.

    Args:
        heatmaps: not negative, and not zero in every cell of a map. Sums are taken in float32 at least.

    Returns:
        Landmarks (x, y) in cells, within the map.
    """
    height, width = heatmaps.shape[-3:-1]
    weights = heatmaps.astype(jnp.promote_types(heatmaps.dtype, jnp.float32))
    columns, rows = weights.sum(axis=-3), weights.sum(axis=-2)
    total = columns.sum(axis=-2)
    x = jnp.einsum("...wk,w->...k", columns, jnp.arange(width, dtype=weights.dtype)) / total
    y = jnp.einsum("...hk,h->...k", rows, jnp.arange(height, dtype=weights.dtype)) / total
    return jnp.stack([x, y], axis=-1)


def spread(heatmaps: Float[Array, "*B H W K"]) -> Float[Array, "*B K"]:
    """Root mean squared distance, in cells, of a heatmap's mass from its soft-argmax: its uncertainty."""
    height, width = heatmaps.shape[-3:-1]
    weights = heatmaps.astype(jnp.promote_types(heatmaps.dtype, jnp.float32))
    center = soft_argmax(heatmaps)
    columns, rows = weights.sum(axis=-3), weights.sum(axis=-2)
    total = columns.sum(axis=-2)
    square_x = jnp.einsum("...wk,w->...k", columns, jnp.arange(width, dtype=weights.dtype) ** 2) / total
    square_y = jnp.einsum("...hk,h->...k", rows, jnp.arange(height, dtype=weights.dtype) ** 2) / total
    variance = square_x + square_y - jnp.sum(center**2, axis=-1)
    return jnp.sqrt(jnp.maximum(variance, 0.0))


def confidence(heatmaps: Float[Array, "*B H W K"]) -> Float[Array, "*B K"]:
    """Score in (0, 1] of a landmark read by `soft_argmax`: 1 / (1 + the heatmap's `spread` in cells)."""
    return 1.0 / (1.0 + spread(heatmaps))


def around_peak(heatmaps: Float[Array, "*B H W K"], radius: int) -> Float[Array, "*B H W K"]:
    """Sets heatmaps to 0 where they are negative or farther than `radius` cells, in x or y, from the highest cell.

    A map without a positive cell gets 1e-6 at its highest cell, so that its soft-argmax exists.
    """
    height, width = heatmaps.shape[-3:-1]
    x, y = _peak(heatmaps)
    columns = jnp.abs(jnp.arange(width).reshape((1,) * x.ndim + (-1,)) - x[..., None]) <= radius
    rows = jnp.abs(jnp.arange(height).reshape((1,) * y.ndim + (-1,)) - y[..., None]) <= radius
    near = jnp.einsum("...kh,...kw->...hwk", rows, columns)
    floor = jnp.where(heatmaps == heatmaps.max(axis=(-3, -2), keepdims=True), 1e-6, 0.0)
    return jnp.where(near, jnp.maximum(heatmaps, floor), 0.0)


def quarter_pixel(heatmaps: Float[Array, "*B H W K"]) -> Float[Array, "*B K 2"]:
    """Highest cell, moved by a quarter of a cell towards its higher neighbour in x and in y.

    Newell et al., ECCV 2016; section 7.3 of Wang et al., ICCV 2019. A coordinate is not moved at the border or between
    equal neighbours.
    """
    x, y = _peak(heatmaps)
    return jnp.stack(
        [x + 0.25 * _higher_side(heatmaps, x, y, 1, 0), y + 0.25 * _higher_side(heatmaps, x, y, 0, 1)], axis=-1
    ).astype(jnp.promote_types(heatmaps.dtype, jnp.float32))


def _peak(heatmaps):
    """Column and row (..., K) of the highest cell."""
    height, width = heatmaps.shape[-3:-1]
    flat = heatmaps.reshape(*heatmaps.shape[:-3], height * width, heatmaps.shape[-1])
    index = jnp.argmax(flat, axis=-2)
    return index % width, index // width


def _higher_side(heatmaps, x, y, dx, dy):
    """Sign of the difference between the neighbours at ±(dx, dy); 0 where one of them is outside."""
    height, width = heatmaps.shape[-3:-1]
    flat = heatmaps.reshape(*heatmaps.shape[:-3], height * width, heatmaps.shape[-1])

    def value(column, row):
        index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
        return jnp.take_along_axis(flat, index[..., None, :], axis=-2)[..., 0, :]

    interior = (x >= dx) & (x < width - dx) & (y >= dy) & (y < height - dy)
    return jnp.where(interior, jnp.sign(value(x + dx, y + dy) - value(x - dx, y - dy)), 0.0)


def is_inside(landmarks: Float[Array, "*B K 2"], shape: tuple[int, int]) -> Bool[Array, "*B K"]:
    """Whether a landmark lies in a cell of a map of `shape` (H, W)."""
    x, y = landmarks[..., 0], landmarks[..., 1]
    return (x >= -0.5) & (x < shape[1] - 0.5) & (y >= -0.5) & (y < shape[0] - 0.5)


def encode_gaussian(
    landmarks: Float[Array, "*B K 2"], shape: tuple[int, int], sigma: float, *, radius: int | None = None
) -> Float[Array, "*B H W K"]:
    """Heatmaps of Gaussians with sub-pixel centres and value 1 at the landmark.

    Args:
        landmarks: (x, y) in cells. A landmark outside the map (see `is_inside`) gives a heatmap of zeros.
        shape: (H, W) of the maps.
        sigma: standard deviation in cells.
        radius: the heatmap is 0 farther than this many cells, in x or y, from the landmark's own cell: 3 for the 7 × 7
            Gaussians of Wang et al., ICCV 2019. None sets no limit.
    """
    height, width = shape
    exists = is_inside(landmarks, shape).astype(landmarks.dtype)

    def profile(centers, length):
        cells = jnp.arange(length, dtype=landmarks.dtype).reshape((1,) * centers.ndim + (-1,))
        bump = jnp.exp(-0.5 * ((cells - centers[..., None]) / sigma) ** 2)
        near = radius is None or jnp.abs(cells - jnp.round(centers)[..., None]) <= radius
        return jnp.where(near, bump, 0.0)

    down = profile(landmarks[..., 1], height) * exists[..., None]
    return jnp.einsum("...kh,...kw->...hwk", down, profile(landmarks[..., 0], width))


def encode_boundary(
    landmarks: Float[Array, "*B K 2"],
    segments: Int[np.ndarray, "S 2"],
    shape: tuple[int, int],
    sigma: float,
    *,
    mask: Bool[Array, "*B K"] | None = None,
) -> Float[Array, "*B H W 1"]:
    """Heatmap of all boundary lines: exp(−D²/2σ²), D the distance to the nearest line, and 0 where D ≥ 3σ.

    It is the maximum over the distance-transform maps of all lines, section 7.3 of Wang et al., ICCV 2019, after Wu et
    al., CVPR 2018. D is the exact distance to the straight segments between the landmarks of each line.

    Args:
        landmarks: (x, y) in cells; they may lie outside the map.
        segments: indices of the landmarks at both ends of each straight segment, as `Scheme.segments` has them.
        shape: (H, W) of the map.
        sigma: width of the line in cells.
        mask: true where a landmark exists (None: all exist); segments that lack an end are left out.
    """
    start = landmarks[..., segments[:, 0], :]
    along = landmarks[..., segments[:, 1], :] - start
    height, width = shape
    lead = (1,) * (landmarks.ndim - 2)
    rows = jnp.arange(height, dtype=landmarks.dtype).reshape(*lead, height, 1, 1)
    columns = jnp.arange(width, dtype=landmarks.dtype).reshape(*lead, 1, width, 1)
    start, along = start[..., None, None, :, :], along[..., None, None, :, :]
    dx, dy = columns - start[..., 0], rows - start[..., 1]
    length = jnp.maximum(jnp.sum(along**2, axis=-1), 1e-12)  # landmarks may coincide, e.g. on a closed eye
    place = jnp.clip((dx * along[..., 0] + dy * along[..., 1]) / length, 0.0, 1.0)
    squares = (dx - place * along[..., 0]) ** 2 + (dy - place * along[..., 1]) ** 2
    if mask is not None:
        squares = jnp.where(mask[..., segments].all(axis=-1)[..., None, None, :], squares, jnp.inf)
    nearest = squares.min(axis=-1)
    bump = jnp.where(nearest < (3 * sigma) ** 2, jnp.exp(-0.5 * nearest / sigma**2), 0.0)
    return bump[..., None]

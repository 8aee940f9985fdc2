"""Heatmaps to landmarks and back. A heatmap cell is a pixel of a smaller image (see `jaxlm.geometry`).

Heatmaps are (..., H, W, K), landmarks (..., K, 2) as (x, y) in cells.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def soft_argmax(heatmaps: Float[Array, "*B H W K"]) -> Float[Array, "*B K 2"]:
    """Expected cell under each heatmap over its sum: Φ of Micaelli et al., CVPR 2023.

    Args:
        heatmaps: non-negative, not all zero. Sums are taken in float32 at least.

    Returns:
        (x, y) in cells, within the map.
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


def encode_gaussian(
    landmarks: Float[Array, "*B K 2"], shape: tuple[int, int], sigma: float
) -> Float[Array, "*B H W K"]:
    """Gaussian bumps with sub-pixel centres and height 1 at the landmark.

    Args:
        landmarks: (x, y) in cells.
        shape: (H, W) of the maps.
        sigma: standard deviation in cells.
    """
    height, width = shape
    x, y = landmarks[..., 0], landmarks[..., 1]
    columns = jnp.arange(width, dtype=landmarks.dtype).reshape((1,) * x.ndim + (-1,)) - x[..., None]
    rows = jnp.arange(height, dtype=landmarks.dtype).reshape((1,) * y.ndim + (-1,)) - y[..., None]
    across = jnp.exp(-0.5 * (columns / sigma) ** 2)
    down = jnp.exp(-0.5 * (rows / sigma) ** 2)
    return jnp.einsum("...kh,...kw->...hwk", down, across)

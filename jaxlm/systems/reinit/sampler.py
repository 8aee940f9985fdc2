"""Differentiable bilinear sampler of spatial transformers (Jaderberg et al., NeurIPS 2015); black outside the image."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxlm import geometry


def sample_bilinear(images: Float[Array, "B H W C"], points: Float[Array, "B N 2"]) -> Float[Array, "B N C"]:
    """Samples images bilinearly at points (x, y) in pixels; the samples outside an image are zero.

    Differentiable with respect to images and points. Each point reads one square of 2 × 2 pixels; the gradient is added
    to the same pixels.
    """
    height, width = images.shape[1:3]
    # A border of two zeros, so that every square of pixels that is read lies inside the array.
    padded = jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    low = jnp.array([-2.0, -2.0], points.dtype).reshape(1, 1, 2)
    high = jnp.array([width, height], points.dtype).reshape(1, 1, 2)
    points = jnp.clip(points, low, high)
    corner = lax.stop_gradient(jnp.floor(jnp.minimum(points, high - 0.5)))
    fx, fy = jnp.moveaxis(points - corner, -1, 0)[..., None]
    start = (corner + 2.0).astype(jnp.int32)
    squares = jax.vmap(_read_squares)(padded, start)
    upper = squares[:, :, 0, 0] * (1.0 - fx) + squares[:, :, 0, 1] * fx
    lower = squares[:, :, 1, 0] * (1.0 - fx) + squares[:, :, 1, 1] * fx
    return upper * (1.0 - fy) + lower * fy


def _read_squares(image: Float[Array, "H W C"], start: Array) -> Float[Array, "N 2 2 C"]:
    dimensions = lax.GatherDimensionNumbers(offset_dims=(1, 2, 3), collapsed_slice_dims=(), start_index_map=(1, 0))
    window = (2, 2, image.shape[-1])
    return lax.gather(image, start, dimensions, window, mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS)


def warp(images: Float[Array, "B H W C"], matrix: Float[Array, "B 2 3"], side: int) -> Float[Array, "B side side C"]:
    """Resamples images through an affine map: Ψ of Eqs. (1)–(2), Shao et al., TPAMI 2021.

    Args:
        images: square images, each spanning [−1, 1]².
        matrix: T_θ, from [−1, 1]² of the new image to [−1, 1]² of the old one.
        side: side of the new image in pixels.
    """
    batch, size, _, channels = images.shape
    pixels = geometry.unit_to_pixels(matrix, side, size)
    line = jnp.arange(side, dtype=images.dtype)
    x, y = jnp.meshgrid(line, line)
    grid = jnp.stack([x.ravel(), y.ravel()], axis=-1)
    points = geometry.apply_affine(pixels, jnp.broadcast_to(grid, (batch, *grid.shape)))
    return sample_bilinear(images, points).reshape(batch, side, side, channels)

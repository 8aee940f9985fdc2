"""Stride-1 convolution whose input gradient stays fast inside a loop.

XLA's CPU backend runs a convolution fast when its kernel is laid out HWIO. The kernel of an automatic input gradient
is transposed and, inside a `while_loop`, stays so: each step of an adjoint solve then takes six times as long. Here
the gradient's kernel is laid out once, outside the loop, as a residual (`benchmarks/adjoint.py` measures it). The
price: reverse mode only.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _convolve(x, kernel):
    pads = [((side - 1) // 2, (side - 1) // 2) for side in kernel.shape[:2]]
    return lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=_LAYOUT)


@jax.custom_vjp
def same_convolution(x: Float[Array, "B H W I"], kernel: Float[Array, "h w I O"]) -> Float[Array, "B H W O"]:
    """Cross-correlation with "same" padding; the sides of the kernel are odd."""
    return _convolve(x, kernel)


def _forward(x, kernel):
    return _convolve(x, kernel), (x, kernel, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))


def _backward(kept, gradient):
    x, kernel, transposed = kept
    kernel_vjp = jax.vjp(lambda kernel: _convolve(x, kernel), kernel)[1]
    return _convolve(gradient, transposed), kernel_vjp(gradient)[0]


same_convolution.defvjp(_forward, _backward)


def conv_general_dilated(x: Array, kernel: Array, window_strides: Any, padding: Any, **options: Any) -> Array:
    """Drop-in for the hook of `flax.linen.Conv`: `same_convolution` where it applies."""
    same = [((side - 1) // 2, (side - 1) // 2) for side in kernel.shape[:2]]
    plain = all(options.get(name) in (None, 1, (1, 1)) for name in ("lhs_dilation", "rhs_dilation"))
    odd = all(side % 2 == 1 for side in kernel.shape[:2])
    plain &= options.get("feature_group_count", 1) == 1
    if tuple(window_strides) == (1, 1) and list(padding) == same and odd and plain:
        return same_convolution(x, kernel)
    return lax.conv_general_dilated(x, kernel, window_strides, padding, **options)

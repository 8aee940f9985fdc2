"""Convolutions that XLA runs fast: gradients inside loops and depthwise on a CPU, any number of channels on a GPU.

XLA's CPU backend runs a convolution fast if its kernel is laid out HWIO. The kernel of an automatic input gradient is
transposed and, inside a `while_loop`, stays so: each step of an adjoint solve then takes six times as long. Here the
forward pass lays the gradient's kernel out once, outside the loop, and keeps it for the backward pass
(`benchmarks/adjoint.py` measures it). The derivatives are given as tangents made of ordinary operations, so that they
hold in forward and in reverse mode and to any order.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _convolve(x, kernel):
    small = x.shape[1] * x.shape[2] < kernel.shape[0] * kernel.shape[1]
    return lax.platform_dependent(x, kernel, cpu=_padded if small else _plain, cuda=_aligned, default=_plain)


def _plain(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), _borders(kernel), dimension_numbers=_LAYOUT)


def _padded(x, kernel):
    """The convolution of an image that has been given its border before.

    XLA's CPU backend exchanges an image and a kernel that has more pixels, which takes ten times as long.
    """
    x = lax.optimization_barrier(jnp.pad(x, ((0, 0), *_borders(kernel), (0, 0))))
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_LAYOUT)


def _borders(kernel):
    return [((side - 1) // 2, (side - 1) // 2) for side in kernel.shape[:2]]


def _aligned(x, kernel):
    """The convolution with channels of zeros added and taken away again, apart from what follows it.

    cuDNN's kernels for bias and convolution in one are slower than those for a convolution alone.
    """
    inputs, outputs = missing_channels(kernel.shape)
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, inputs)))
    wide = _plain(x, jnp.pad(kernel, ((0, 0), (0, 0), (0, inputs), (0, outputs))))
    return lax.optimization_barrier(wide)[..., : kernel.shape[3]]


def missing_channels(shape: tuple[int, ...]) -> tuple[int, int]:
    """Numbers of input and output channels to add to a kernel (h, w, I, O), at most a quarter of them.

    cuDNN is fast from multiples of 8 channels on, and for large kernels from multiples of 32 (`benchmarks/gpu.py`).
    """
    multiple = 32 if min(shape[:2]) >= 5 else 8
    inputs, outputs = (-channels % multiple for channels in shape[2:])
    return inputs if 4 * inputs <= shape[2] else 0, outputs if 4 * outputs <= shape[3] else 0


@jax.custom_jvp
def same_convolution(x: Float[Array, "B H W I"], kernel: Float[Array, "h w I O"]) -> Float[Array, "B H W O"]:
    """Cross-correlation with "same" padding and stride 1; the kernel's sides must be odd."""
    return _convolve(x, kernel)


@same_convolution.defjvp
def _tangent(primals, tangents):
    (x, kernel), (x_dot, kernel_dot) = primals, tangents
    y = same_convolution(x, kernel)
    transposed = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)

    # The transpose of this map, which gives the gradient of x, is the convolution with the kernel that was laid out. As
    # a checkpoint it keeps that kernel alone.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def of_x(x_dot, transposed):
        return jax.linear_transpose(lambda gradient: _convolve(gradient, transposed), y)(x_dot)[0]

    return y, of_x(x_dot, transposed) + _plain(x, kernel_dot)


def conv_general_dilated(x: Array, kernel: Array, window_strides: Any, padding: Any, **options: Any) -> Array:
    """Convolution for the `conv_general_dilated` hook of `flax.linen.Conv`.

    It is `same_convolution` if the arguments allow, else `lax.conv_general_dilated`.
    """
    same = [((side - 1) // 2, (side - 1) // 2) for side in kernel.shape[:2]]
    plain = all(options.get(name) in (None, 1, (1, 1)) for name in ("lhs_dilation", "rhs_dilation"))
    odd = all(side % 2 == 1 for side in kernel.shape[:2])
    plain &= options.get("feature_group_count", 1) == 1
    if tuple(window_strides) == (1, 1) and list(padding) == same and odd and plain:
        return same_convolution(x, kernel)
    return lax.conv_general_dilated(x, kernel, window_strides, padding, **options)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def depthwise_convolution(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C"], stride: int = 1
) -> Float[Array, "B h w C"]:
    """Convolution of each channel with its own 3 × 3 kernel, with "same" padding.

    XLA's CPU backend runs a grouped convolution channel by channel, and a sum over all pixels one channel at a time. On
    a CPU the convolution is therefore computed as nine shifted products, and the kernel's gradient is accumulated row
    by row over vectors of channels (ten times as fast; `benchmarks/reinit.py`). On other devices it is the grouped
    convolution.
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _shifted_products(_border(lax.optimization_barrier(x)), kernel, stride),
        default=lambda x, kernel: _grouped(x, kernel, stride),
    )


@depthwise_convolution.defjvp
def _depthwise_tangent(stride, primals, tangents):
    (x, kernel), (x_dot, kernel_dot) = primals, tangents
    y = depthwise_convolution(x, kernel, stride)

    def on_cpu(x, kernel, x_dot, kernel_dot):
        def input_gradient(gradient):
            # Without the barrier XLA would fuse the computation of the gradient into each of the nine products.
            return _input_gradient(x.shape, kernel, lax.optimization_barrier(gradient), stride)

        (from_x,) = jax.linear_transpose(input_gradient, y)(x_dot)
        return from_x + _row_by_row(_border(lax.optimization_barrier(x)), kernel_dot, y.shape, stride)

    def elsewhere(x, kernel, x_dot, kernel_dot):
        return _grouped(x_dot, kernel, stride) + _grouped(x, kernel_dot, stride)

    return y, lax.platform_dependent(x, kernel, x_dot, kernel_dot, cpu=on_cpu, default=elsewhere)


def _grouped(x, kernel, stride):
    kernel, pads = kernel[:, :, None], ((1, 1), (1, 1))
    strides, groups = (stride, stride), x.shape[-1]
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_LAYOUT, feature_group_count=groups)


def _border(x):
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _shifted_products(padded, kernel, stride):
    batch, height, width, channels = padded.shape
    total, kernel = jnp.zeros((), padded.dtype), kernel.reshape(3, 3, 1, 1, 1, channels)
    for i in range(3):
        for j in range(3):
            end = (batch, height - 2 + i, width - 2 + j, channels)
            total = total + lax.slice(padded, (0, i, j, 0), end, (1, stride, stride, 1)) * kernel[i, j]
    return total


def _input_gradient(shape, kernel, gradient, stride):
    if stride > 1:
        sides = zip(shape[1:3], gradient.shape[1:3], strict=True)
        gaps = [(0, side - (stride * (small - 1) + 1), stride - 1) for side, small in sides]
        gradient = lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *gaps, (0, 0, 0)))
    return _shifted_products(_border(gradient), jnp.flip(kernel, (0, 1)), 1)


def _row_by_row(padded, kernel, shape, stride):
    """The convolution, whose transpose with respect to the kernel adds up rows of vectors of channels."""
    batch, height, width, channels = shape
    wide = [jnp.broadcast_to(kernel[i, j], (batch, width, channels)) for i, j in _TAPS]

    def one_row(_, row):
        rows = [lax.dynamic_index_in_dim(padded, row * stride + i, 1, keepdims=False) for i in range(3)]
        last = stride * (width - 1) + 1
        shifted = [lax.slice(rows[i], (0, j, 0), (batch, j + last, channels), (1, stride, 1)) for i, j in _TAPS]
        return None, functools.reduce(jnp.add, [x * w for x, w in zip(shifted, wide, strict=True)])

    return lax.scan(one_row, None, jnp.arange(height))[1].swapaxes(0, 1)


_TAPS = [(i, j) for i in range(3) for j in range(3)]

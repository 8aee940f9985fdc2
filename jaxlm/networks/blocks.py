"""Blocks and functions that several networks share. Images are NHWC."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlm.networks.convolution import conv_general_dilated
from jaxlm.networks.normalization import EPSILON, LeakyGroupNorm

Norm = Literal["batch", "group"]


class ConvBlock(nn.Module):
    """Convolution with bias, LeakyReLU(0.01) and normalisation, in the order of the released LDEQ.

    Attributes:
        features: output channels.
        kernel: side of the square kernel; "same" padding.
        stride: stride in both directions.
        norm: "batch" (running statistics, momentum 0.9) or "group".
        groups: groups of the group norm; divides `features`.
        dtype: type of the activations; parameters are float32, and statistics are computed in float32.
        epsilon: of the group norm.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    norm: Norm = "group"
    groups: int = 8
    dtype: Any = jnp.float32
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B h w features"]:
        pad = (self.kernel - 1) // 2
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=((pad, pad), (pad, pad)),
            dtype=self.dtype,
            conv_general_dilated=conv_general_dilated,
            name="conv",
        )(x)
        if self.norm == "group":
            return LeakyGroupNorm(self.groups, dtype=self.dtype, epsilon=self.epsilon, name="norm")(x)
        x = nn.leaky_relu(x, 0.01)
        return nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype, name="norm")(x)


def upsample_nearest(x: Float[Array, "B H W C"], factor: int = 2) -> Float[Array, "B h w C"]:
    """Repeats every pixel `factor` times in both directions."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, height, factor, width, factor, channels))
    return x.reshape(batch, height * factor, width * factor, channels)


def average_pool(x: Float[Array, "B H W C"], factor: int = 2) -> Float[Array, "B h w C"]:
    """Means over tiles of `factor` × `factor` pixels."""
    batch, height, width, channels = x.shape
    tiles = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return tiles.mean(axis=(2, 4))


def max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Largest of each 2 × 2 pixels; a last odd row or column is left out.

    On a CPU its gradient takes a fifth of the time that the gradient of `flax.linen.max_pool` takes.
    """
    height, width = (side // 2 * 2 for side in x.shape[1:3])
    rows = jnp.maximum(x[:, 0:height:2, :width], x[:, 1:height:2, :width])
    return jnp.maximum(rows[:, :, 0::2], rows[:, :, 1::2])


def imagenet_normalize(images: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """Normalises RGB images in [0, 255] by ImageNet's mean and standard deviation."""
    mean = jnp.array([123.675, 116.28, 103.53]).reshape(1, 1, 1, 3)
    std = jnp.array([58.395, 57.12, 57.375]).reshape(1, 1, 1, 3)
    return (images - mean) / std


def check_sides(images: Array, stride: int, depth: int) -> None:
    """Raises ValueError unless the images' sides are divisible by `stride` · 2^`depth`, as an hourglass needs."""
    multiple = stride * 2**depth
    if images.shape[1] % multiple or images.shape[2] % multiple:
        raise ValueError(
            f"The image is {images.shape[2]} × {images.shape[1]} pixels, but both sides must be divisible by "
            f"{multiple} for an hourglass of depth {depth}."
        )


def normalize_heatmaps(logits: Float[Array, "B H W K"], temperature: float) -> Float[Array, "B H W K"]:
    """Heatmaps exp((z − max z)/T) of logits z: σ of Eq. (3), Micaelli et al., CVPR 2023.

    The maximum is taken per channel, so the peak of each heatmap is 1.
    """
    return jnp.exp((logits - logits.max(axis=(1, 2), keepdims=True)) / temperature)


def make_dtype(name: str) -> Any:
    """JAX type of a network's activations, by its name `model.dtype`.

    Raises:
        ValueError: if the name is neither float32 nor bfloat16.
    """
    dtypes = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    if name not in dtypes:
        raise ValueError(f"model.dtype must be float32 or bfloat16, got {name!r}.")
    return dtypes[name]


def count_parameters(params: Any) -> int:
    """Number of scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))

"""Boundary-aware stacked hourglass network of Wang et al., ICCV 2019 (sections 3, 5 and 6).

It is Newell's stack of hourglasses, built from the hierarchical, parallel, multi-scale block of Bulat & Tzimiropoulos
(ICCV 2017). Coordinate channels are concatenated before the first convolution and before every hourglass. One more
heatmap channel predicts the boundary lines.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlm.networks.blocks import average_pool, check_sides, imagenet_normalize, normalize_heatmaps, upsample_nearest

STRIDE = 4  # image pixels per heatmap cell
BOUNDARY_THRESHOLD = 0.05  # cells of the boundary heatmap from this value on keep their coordinates, Eq. (6)


class MultiScaleBlock(nn.Module):
    """Residual block of three consecutive 3×3 convolutions with C/2, C/4 and C/4 channels.

    The outputs of the three are concatenated and the input is added. Batch norm and ReLU precede each convolution. If
    the input has another number of channels, a 1×1 convolution projects it, also after norm and ReLU.

    Attributes:
        features: C, number of output channels; divisible by 4.
        dtype: type of the activations; parameters and statistics are float32.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"], train: bool) -> Float[Array, "B H W features"]:
        def layer(x, features, kernel, name):
            x = nn.relu(_norm(train, self.dtype, f"norm_{name}")(x))
            return _conv(features, kernel, self.dtype, f"conv_{name}", use_bias=False)(x)

        wide = layer(x, self.features // 2, 3, "0")
        middle = layer(wide, self.features // 4, 3, "1")
        narrow = layer(middle, self.features // 4, 3, "2")
        shortcut = x if x.shape[-1] == self.features else layer(x, self.features, 1, "shortcut")
        return jnp.concatenate([wide, middle, narrow], axis=-1) + shortcut


class BlockHourglass(nn.Module):
    """Hourglass of multi-scale blocks, with `depth` levels of average pooling.

    Each level has one block on the way down, one on the way up and one on the skip connection.

    Attributes:
        features: number of input and output channels.
        depth: number of levels; the input's sides must be divisible by 2^depth.
        dtype: type of the activations.
    """

    features: int
    depth: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        def block(name):
            return MultiScaleBlock(self.features, self.dtype, name=name)

        skips = []
        for level in range(self.depth):
            skips.append(block(f"skip_{level}")(x, train))
            x = block(f"down_{level}")(average_pool(x), train)
        x = block("bottom")(x, train)
        for level in reversed(range(self.depth)):
            x = skips[level] + upsample_nearest(block(f"up_{level}")(x, train))
        return x


class Stage(nn.Module):
    """One stage of the stack: coordinate channels, one hourglass, and the layers that predict heatmaps.

    Attributes:
        features: number of input and output channels.
        channels: number of heatmaps; the boundary heatmap, if there is one, is the last.
        depth: number of levels of the hourglass.
        coordinates: whether x, y and the radius are concatenated to the input.
        last: whether this is the last stage, which computes only heatmaps and no features for a next stage.
        dtype: type of the activations; heatmaps are float32.
    """

    features: int
    channels: int
    depth: int
    coordinates: bool
    last: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], boundary: Float[Array, "B h w 1"] | None, train: bool
    ) -> tuple[Float[Array, "B h w C"], Float[Array, "B h w K"]]:
        entered = x
        if self.coordinates:
            added = jnp.concatenate([x, coordinate_channels(x, boundary)], axis=-1)
            entered = _conv(self.features, 1, self.dtype, "coordinates")(added)
        h = BlockHourglass(self.features, self.depth, self.dtype, name="hourglass")(entered, train)
        h = MultiScaleBlock(self.features, self.dtype, name="top")(h, train)
        h = _conv(self.features, 1, self.dtype, "linear")(h)
        h = nn.relu(_norm(train, self.dtype, "norm")(h))
        # Heatmaps are float32: bfloat16 rounds a peak by 0.002, where the Adaptive Wing loss is steep.
        heatmaps = _conv(self.channels, 1, jnp.float32, "heatmaps")(h)
        if not self.last:
            x = x + _conv(self.features, 1, self.dtype, "merge_features")(h)
            x = x + _conv(self.features, 1, self.dtype, "merge_heatmaps")(heatmaps)
        return x, heatmaps


class StackedHourglass(nn.Module):
    """Stacked hourglass network: predicts heatmaps at every stage, at a quarter of the image's resolution.

    Attributes:
        num_landmarks: K, number of landmarks.
        stacks: number of hourglasses, 1 to 8; 4 in the paper.
        features: number of channels of every stage, divisible by 16; 256 in the paper.
        depth: number of levels of each hourglass; 4 in the paper.
        boundary: whether one more channel predicts all boundary lines (section 5).
        coordinates: whether x, y and the radius are concatenated to the image and to every hourglass's input
            (section 6).
        boundary_coordinates: whether x and y, set to 0 where the previous stage's boundary heatmap is below 0.05, are
            concatenated to every hourglass's input as well, Eq. (6).
        temperature: T of `normalize_heatmaps`, which scales the heatmaps to (0, 1] with peak 1, for a soft-argmax. With
            0 the heatmaps are the unbounded output of the last convolution, for a regression of gaussians.
        remat: whether the backward pass recomputes the activations of a stage instead of keeping them.
        dtype: type of the activations; heatmaps are float32.
    """

    num_landmarks: int
    stacks: int = 4
    features: int = 256
    depth: int = 4
    boundary: bool = True
    coordinates: bool = True
    boundary_coordinates: bool = True
    temperature: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self):
        if not 1 <= self.stacks <= 8:
            raise ValueError(f"stacks must be 1 to 8, got {self.stacks}.")
        if self.features % 16 or self.features < 16 or self.depth < 1:
            raise ValueError(
                f"features must be divisible by 16 and depth at least 1, got {self.features} and {self.depth}."
            )
        if self.boundary_coordinates and not (self.boundary and self.coordinates):
            raise ValueError("boundary_coordinates needs boundary and coordinates to be True.")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool = False) -> Float[Array, "stacks B h w channels"]:
        """Heatmaps of every stage for RGB images in [0, 255], with K channels, or K + 1 with `boundary`.

        Raises:
            ValueError: if the image's sides are not divisible by 4 · 2^depth.
        """
        check_sides(images, STRIDE, self.depth)
        x = self._stem(images, train)
        stage = nn.remat(Stage, static_argnums=(3,)) if self.remat else Stage
        outputs, boundary = [], None
        for number in range(self.stacks):
            x, heatmaps = stage(
                self.features,
                self.num_landmarks + self.boundary,
                self.depth,
                self.coordinates,
                last=number == self.stacks - 1,
                dtype=self.dtype,
                name=f"stage_{number}",
            )(x, boundary, train)
            if self.temperature > 0:
                heatmaps = normalize_heatmaps(heatmaps, self.temperature)
            outputs.append(heatmaps)
            boundary = heatmaps[..., -1:] if self.boundary_coordinates else None
        return jnp.stack(outputs)

    def _stem(self, images, train: bool):
        x = imagenet_normalize(images).astype(self.dtype)
        if self.coordinates:
            x = jnp.concatenate([x, coordinate_channels(x, None)], axis=-1)
        x = _conv(self.features // 4, 7, self.dtype, "conv", stride=2)(x)
        x = nn.relu(_norm(train, self.dtype, "norm")(x))
        x = average_pool(MultiScaleBlock(self.features // 2, self.dtype, name="block_0")(x, train))
        x = MultiScaleBlock(self.features // 2, self.dtype, name="block_1")(x, train)
        return MultiScaleBlock(self.features, self.dtype, name="block_2")(x, train)


def coordinate_channels(
    x: Float[Array, "B H W C"], boundary: Float[Array, "B H W 1"] | None
) -> Float[Array, "B H W c"]:
    """Coordinate channels to concatenate to `x` (CoordConv; section 6 of Wang et al., ICCV 2019).

    Args:
        x: feature map; the channels have its size and dtype.
        boundary: predicted boundary heatmap, or None.

    Returns:
        Three channels: x and y from −1 to 1, and the distance from the centre, 1 in the corners. With a boundary there
        are two more: x and y where the boundary is at least 0.05, and 0 elsewhere, Eq. (6).
    """
    batch, height, width, _ = x.shape
    columns = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, width).reshape(1, 1, -1, 1), (batch, height, width, 1))
    rows = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, height).reshape(1, -1, 1, 1), (batch, height, width, 1))
    channels = [columns, rows, jnp.sqrt((columns**2 + rows**2) / 2.0)]
    if boundary is not None:
        on_boundary = (boundary >= BOUNDARY_THRESHOLD).astype(columns.dtype)
        channels += [columns * on_boundary, rows * on_boundary]
    return jnp.concatenate(channels, axis=-1).astype(x.dtype)


def _conv(features: int, kernel: int, dtype: Any, name: str, *, stride: int = 1, use_bias: bool = True) -> nn.Conv:
    pad = (kernel - 1) // 2
    padding = ((pad, pad), (pad, pad))
    return nn.Conv(
        features, (kernel, kernel), strides=stride, padding=padding, use_bias=use_bias, dtype=dtype, name=name
    )


def _norm(train: bool, dtype: Any, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)

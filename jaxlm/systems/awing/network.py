"""The boundary-aware stacked hourglass of Wang et al., ICCV 2019 (sections 3, 5 and 6).

Newell's stack of hourglasses with the hierarchical, parallel, multi-scale block of Bulat & Tzimiropoulos (ICCV 2017),
coordinates added before the first convolution and before every hourglass, and a boundary channel beside the landmarks'.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlm.networks.blocks import average_pool, check_sides, imagenet_normalize, normalize_heatmaps, upsample_nearest

STRIDE = 4  # image pixels per heatmap cell
BOUNDARY_THRESHOLD = 0.05  # of Eq. (6)


class MultiScaleBlock(nn.Module):
    """Three 3×3 convolutions in a row, of C/2, C/4 and C/4 channels, their outputs concatenated; plus the input.

    Batch norm and ReLU come before each convolution. Where the number of channels changes, the input is projected by a
    1×1 convolution, with norm and ReLU before it as well.

    Attributes:
        features: C, output channels; divisible by 4.
        dtype: of the activations; parameters and statistics are float32.
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
    """Hourglass of multi-scale blocks: `depth` levels of average pooling, one block a level on each side and the skip.

    Attributes:
        features: channels in and out.
        depth: levels; the input's sides are divisible by 2^depth.
        dtype: of the activations.
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
    """One hourglass with its coordinates before it and its heatmaps behind it.

    Attributes:
        features: channels in and out.
        channels: heatmaps; the last one is the boundary's where the next stage gates coordinates by it.
        depth: levels of the hourglass.
        coordinates: whether x, y and the radius are added.
        last: whether nothing follows; then only the heatmaps are computed.
        dtype: of the activations.
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
        # In float32: bfloat16 rounds a peak by 0.002, where the Adaptive Wing loss is steep.
        heatmaps = _conv(self.channels, 1, jnp.float32, "heatmaps")(h)
        if not self.last:
            x = x + _conv(self.features, 1, self.dtype, "merge_features")(h)
            x = x + _conv(self.features, 1, self.dtype, "merge_heatmaps")(heatmaps)
        return x, heatmaps


class StackedHourglass(nn.Module):
    """Heatmaps of every stage, at a quarter of the image's resolution.

    Attributes:
        num_landmarks: K.
        stacks: number of hourglasses, 1 to 8; 4 in the paper.
        features: channels, divisible by 16; 256 in the paper.
        depth: levels of each hourglass; 4 in the paper.
        boundary: whether one more channel predicts all boundary lines (section 5).
        coordinates: whether x, y and radius are added to the image and to every hourglass's input (section 6).
        boundary_coordinates: whether x and y where the boundary of the stage before is at least 0.05 are, too, Eq. (6).
        temperature: T of `normalize_heatmaps`, which puts the heatmaps into (0, 1] with peak 1 for a soft-argmax; at 0
            they are the last convolution's, unbounded, for a regression of gaussians.
        remat: whether the activations of a stage are computed again in the backward pass instead of kept.
        dtype: of the activations. Heatmaps are float32.
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
            raise ValueError(f"A stack has 1 to 8 hourglasses, got stacks={self.stacks}.")
        if self.features % 16 or self.features < 16 or self.depth < 1:
            raise ValueError(
                f"features must be divisible by 16 and depth at least 1, got {self.features} and {self.depth}."
            )
        if self.boundary_coordinates and not (self.boundary and self.coordinates):
            raise ValueError("boundary_coordinates needs boundary and coordinates.")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool = False) -> Float[Array, "stacks B h w channels"]:
        """Heatmaps of RGB images in [0, 255]; K channels and, with `boundary`, one more.

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
    """Coordinates to be concatenated to `x` (CoordConv; section 6 of Wang et al., ICCV 2019).

    Args:
        x: whose size and dtype are taken.
        boundary: predicted boundary; None leaves its channels out.

    Returns:
        x and y from −1 to 1 and the radius from the centre, 1 in the corners; with a boundary two more: x and y where
        it is at least 0.05 and 0 elsewhere, Eq. (6).
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

"""MobileNetV2 (Sandler et al., CVPR 2018) and the small one of Table 2, Shao et al., TPAMI 2021, as regressors."""

from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from jaxlm.networks.convolution import depthwise_convolution


class Bottlenecks(NamedTuple):
    """A row of such a table: `repeats` blocks of `features` channels, the first with the stride."""

    expansion: int
    features: int
    repeats: int
    stride: int


class Layout(NamedTuple):
    """A whole network before its fully connected layers."""

    stem: int
    rows: tuple[Bottlenecks, ...]
    last: int


SMALL = Layout(
    stem=8,
    rows=(
        Bottlenecks(1, 8, 1, 1),
        Bottlenecks(6, 12, 2, 2),
        Bottlenecks(6, 16, 2, 2),
        Bottlenecks(6, 24, 3, 2),
        Bottlenecks(6, 32, 3, 2),
        Bottlenecks(6, 48, 3, 2),
        Bottlenecks(6, 64, 2, 2),
        Bottlenecks(6, 80, 1, 1),
    ),
    last=64,
)

# "Most configurations of the original"; its fifth row gets stride 2, which is what the published 0.27 GFLOPs ask for.
MEDIUM = Layout(
    stem=32,
    rows=(
        Bottlenecks(1, 16, 1, 1),
        Bottlenecks(6, 24, 2, 2),
        Bottlenecks(6, 32, 3, 2),
        Bottlenecks(6, 64, 4, 2),
        Bottlenecks(6, 96, 3, 2),
        Bottlenecks(6, 160, 3, 2),
        Bottlenecks(6, 320, 1, 1),
    ),
    last=128,
)

# For tests and first tries.
NANO = Layout(stem=8, rows=(Bottlenecks(2, 8, 1, 2), Bottlenecks(2, 16, 1, 2)), last=16)

# For images of 64×64 on a CPU: 4×4 cells are left to the fully connected layers, as the place of things needs.
TINY = Layout(
    stem=16,
    rows=(Bottlenecks(1, 16, 1, 1), Bottlenecks(4, 24, 2, 2), Bottlenecks(4, 32, 2, 2), Bottlenecks(4, 48, 2, 2)),
    last=64,
)

LAYOUTS = {"nano": NANO, "tiny": TINY, "small": SMALL, "medium": MEDIUM}


class DepthwiseConv(nn.Module):
    """3×3 convolution of each channel by itself, without bias.

    Attributes:
        stride: in both directions.
    """

    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", initializer, (3, 3, 1, x.shape[-1]))
        return depthwise_convolution(x, kernel[:, :, 0], self.stride)


class InvertedResidual(nn.Module):
    """Expansion by 1×1, depthwise 3×3, linear projection by 1×1; a shortcut where the shapes agree.

    Attributes:
        features: output channels.
        stride: of the depthwise convolution.
        expansion: width inside over the input's; with 1 there is no expansion.
    """

    features: int
    stride: int = 1
    expansion: int = 6

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w features"]:
        width = x.shape[-1] * self.expansion
        y = x
        if self.expansion != 1:
            y = nn.relu(batch_norm(train, "expand_norm")(pointwise(width, "expand")(y)))
        y = nn.relu(batch_norm(train, "depthwise_norm")(DepthwiseConv(self.stride, name="depthwise")(y)))
        y = batch_norm(train, "project_norm")(pointwise(self.features, "project")(y))
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """Images to feature maps.

    Attributes:
        layout: of the blocks.
    """

    layout: Layout = SMALL

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w last"]:
        x = nn.Conv(self.layout.stem, (3, 3), strides=2, padding=1, use_bias=False, name="stem")(images)
        x = nn.relu(batch_norm(train, "stem_norm")(x))
        for number, row in enumerate(self.layout.rows):
            for repeat in range(row.repeats):
                stride = row.stride if repeat == 0 else 1
                x = InvertedResidual(row.features, stride, row.expansion, name=f"row{number}_{repeat}")(x, train)
        return nn.relu(batch_norm(train, "last_norm")(pointwise(self.layout.last, "last")(x)))


def pointwise(features: int, name: str) -> nn.Dense:
    """1×1 convolution without bias, as the matrix product that it is."""
    return nn.Dense(features, use_bias=False, kernel_init=nn.initializers.he_normal(), name=name)


def batch_norm(train: bool, name: str) -> nn.BatchNorm:
    """With the momentum and ε of PyTorch, where the papers trained."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


class RegressionHead(nn.Module):
    """Fully connected layers with PReLU between them; the last one starts at zero.

    Attributes:
        widths: of the hidden layers.
        outputs: numbers that come out.
    """

    widths: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: Float[Array, "B N"]) -> Float[Array, "B outputs"]:
        for number, width in enumerate(self.widths):
            x = nn.Dense(width, kernel_init=nn.initializers.he_normal(), name=f"dense{number}")(x)
            x = nn.PReLU(negative_slope_init=0.25, name=f"prelu{number}")(x)
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros, name="last")(x)

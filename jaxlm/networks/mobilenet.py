"""MobileNetV2 (Sandler et al., CVPR 2018) and the small one of Table 2, Shao et al., TPAMI 2021, for regression."""

from typing import NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from jaxlm.networks.convolution import depthwise_convolution


class Bottlenecks(NamedTuple):
    """One row of a layout: `repeats` bottlenecks of `features` output channels; the first one has the stride.

    Attributes:
        expansion: width inside the bottlenecks over that of their input.
        features: number of output channels.
        repeats: number of bottlenecks.
        stride: stride of the first bottleneck; the others have stride 1.
    """

    expansion: int
    features: int
    repeats: int
    stride: int


class Layout(NamedTuple):
    """Sizes of a whole MobileNetV2 before its fully connected layers.

    Attributes:
        stem: output channels of the first convolution, which has stride 2.
        rows: the bottlenecks.
        last: output channels of the last convolution.
    """

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

# The paper keeps "most configurations of the original". Stride 2 in the fifth row gives the published 0.27 GFLOPs.
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

# For tests and first experiments.
NANO = Layout(stem=8, rows=(Bottlenecks(2, 8, 1, 2), Bottlenecks(2, 16, 1, 2)), last=16)

# For 64×64 images on a CPU: the last feature map has 4×4 cells, because the fully connected layers need positions.
TINY = Layout(
    stem=16,
    rows=(Bottlenecks(1, 16, 1, 1), Bottlenecks(4, 24, 2, 2), Bottlenecks(4, 32, 2, 2), Bottlenecks(4, 48, 2, 2)),
    last=64,
)

LAYOUTS = {"nano": NANO, "tiny": TINY, "small": SMALL, "medium": MEDIUM}


class DepthwiseConv(nn.Module):
    """3×3 convolution of each channel with its own kernel, without bias.

    Attributes:
        stride: stride in both directions.
    """

    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        initializer = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", initializer, (3, 3, 1, x.shape[-1]))
        return depthwise_convolution(x, kernel[:, :, 0], self.stride)


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise convolution and linear 1×1 projection, with a shortcut if the shapes agree.

    Attributes:
        features: number of output channels.
        stride: stride of the depthwise convolution.
        expansion: width inside the block over that of its input; 1 for no expansion.
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
    """MobileNetV2 without fully connected layers: maps images to the last feature map.

    Attributes:
        layout: sizes of the network.
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
    """1×1 convolution without bias, computed as a matrix product."""
    return nn.Dense(features, use_bias=False, kernel_init=nn.initializers.he_normal(), name=name)


def batch_norm(train: bool, name: str) -> nn.BatchNorm:
    """Batch norm with the momentum and ε of PyTorch, in which the papers' networks were trained."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


class RegressionHead(nn.Module):
    """Fully connected layers with PReLU between them; the weights of the last layer start at zero.

    Attributes:
        widths: widths of the hidden layers.
        outputs: number of outputs.
    """

    widths: tuple[int, ...]
    outputs: int

    @nn.compact
    def __call__(self, x: Float[Array, "B N"]) -> Float[Array, "B outputs"]:
        for number, width in enumerate(self.widths):
            x = nn.Dense(width, kernel_init=nn.initializers.he_normal(), name=f"dense{number}")(x)
            x = nn.PReLU(negative_slope_init=0.25, name=f"prelu{number}")(x)
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros, name="last")(x)

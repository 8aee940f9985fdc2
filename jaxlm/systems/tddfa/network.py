"""Backbones of 3DDFA_V2 (Guo et al., ECCV 2020), with a head for parameters and one for landmarks (Section 2.3).

The layers are those of the released models: MobileNetV1 (Howard et al., 2017) at any width, and a ResNet of 22 layers.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlm.networks.mobilenet import DepthwiseConv, batch_norm, pointwise

# name, output channels at width 1, stride
_BLOCKS = (
    ("dw2_1", 64, 1), ("dw2_2", 128, 2), ("dw3_1", 128, 1), ("dw3_2", 256, 2), ("dw4_1", 256, 1), ("dw4_2", 512, 2),
    ("dw5_1", 512, 1), ("dw5_2", 512, 1), ("dw5_3", 512, 1), ("dw5_4", 512, 1), ("dw5_5", 512, 1), ("dw5_6", 1024, 2),
    ("dw6", 1024, 1),
)  # fmt: skip

WIDTHS = {"mobilenet_0.25": 0.25, "mobilenet_0.5": 0.5, "mobilenet_0.75": 0.75, "mobilenet_1": 1.0, "mobilenet_2": 2.0}
BACKBONES = (*WIDTHS, "resnet22")


class SeparableBlock(nn.Module):
    """Depthwise 3×3 convolution, then 1×1 convolution, each with batch norm and ReLU.

    Attributes:
        features: number of output channels.
        stride: stride of the depthwise convolution.
    """

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w features"]:
        x = nn.relu(batch_norm(train, "bn_dw")(DepthwiseConv(self.stride, name="conv_dw")(x)))
        return nn.relu(batch_norm(train, "bn_sep")(pointwise(self.features, "conv_sep")(x)))


class MobileNetV1(nn.Module):
    """MobileNetV1: computes a feature map from images.

    Attributes:
        width: factor on the number of channels of every layer.
    """

    width: float = 1.0

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w C"]:
        stem = nn.Conv(int(32 * self.width), (3, 3), strides=2, padding=1, use_bias=False, name="conv1")
        x = nn.relu(batch_norm(train, "bn1")(stem(images)))
        for name, features, stride in _BLOCKS:
            x = SeparableBlock(int(features * self.width), stride, name=name)(x, train)
        return x


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut (He et al., CVPR 2016).

    Attributes:
        features: number of output channels.
        stride: stride of the first convolution.
    """

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w features"]:
        def conv(features, side, stride, name):
            return nn.Conv(features, (side, side), stride, padding=side // 2, use_bias=False, name=name)

        y = nn.relu(batch_norm(train, "bn1")(conv(self.features, 3, self.stride, "conv1")(x)))
        y = batch_norm(train, "bn2")(conv(self.features, 3, 1, "conv2")(y))
        if y.shape != x.shape:
            x = batch_norm(train, "bn_down")(conv(self.features, 1, self.stride, "conv_down")(x))
        return nn.relu(x + y)


class ResNet22(nn.Module):
    """ResNet of two convolutions and stages of 3, 4 and 3 basic blocks with 128, 256 and 512 channels."""

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w 512"]:
        x = nn.Conv(32, (5, 5), 2, padding=2, use_bias=False, name="conv1")(images)
        x = nn.relu(batch_norm(train, "bn1")(x))
        x = nn.Conv(64, (3, 3), 2, padding=1, use_bias=False, name="conv2")(x)
        x = nn.relu(batch_norm(train, "bn2")(x))
        for stage, (count, features) in enumerate(((3, 128), (4, 256), (3, 512)), start=1):
            for number in range(count):
                block = BasicBlock(features, 2 if number == 0 else 1, name=f"layer{stage}_{number}")
                x = block(x, train)
        return x


class ParameterNetwork(nn.Module):
    """Predicts z-scored parameters from images and, with a landmark branch, landmarks.

    Attributes:
        backbone: one of `BACKBONES`.
        num_params: P, number of parameters.
        num_landmarks: K, number of landmarks; 0 for no landmark branch.
        bgr: whether RGB images are reordered to BGR, as the released weights need.
    """

    backbone: str
    num_params: int
    num_landmarks: int = 68
    bgr: bool = False

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], train: bool
    ) -> tuple[Float[Array, "B P"], Float[Array, "B K 2"] | None]:
        """Z-scored parameters, and landmarks in [−1, 1] over the crop or None, of RGB images in [0, 255]."""
        x = (images[..., ::-1] if self.bgr else images) / 128.0 - 127.5 / 128.0
        if self.backbone == "resnet22":
            network: nn.Module = ResNet22(name="trunk")
        else:
            network = MobileNetV1(WIDTHS[self.backbone], name="trunk")
        pooled = network(x, train).mean(axis=(1, 2))
        params = nn.Dense(self.num_params, kernel_init=_head_init, name="fc_param")(pooled)
        if not self.num_landmarks:
            return params, None
        landmarks = nn.Dense(2 * self.num_landmarks, kernel_init=_head_init, name="fc_lm")(pooled)
        return params, landmarks.reshape(-1, self.num_landmarks, 2)


def _head_init(rng, shape, dtype=jnp.float32):
    """Small random weights, so that training begins at the mean face."""
    return nn.initializers.normal(0.1 / math.sqrt(shape[0]))(rng, shape, dtype)

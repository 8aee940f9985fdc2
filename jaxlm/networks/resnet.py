"""ResNet-50 (He et al., CVPR 2016) for regression, with the stride in the 3×3 convolution."""

import flax.linen as nn
from jaxtyping import Array, Float

_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions with batch norms, and a shortcut; the output is four times as wide as the inside.

    Attributes:
        features: number of channels inside.
        stride: stride of the 3×3 convolution and of the shortcut.
    """

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w D"]:
        y = nn.relu(_conv_norm(x, self.features, 1, 1, train, "reduce"))
        y = nn.relu(_conv_norm(y, self.features, 3, self.stride, train, "middle"))
        y = _conv_norm(y, 4 * self.features, 1, 1, train, "expand")
        if x.shape != y.shape:
            x = _conv_norm(x, 4 * self.features, 1, self.stride, train, "shortcut")
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """ResNet-50 without its fully connected layer: maps images to the mean of the last feature map."""

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B 2048"]:
        x = nn.relu(_conv_norm(images, 64, 7, 2, train, "stem"))
        x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
        for stage, (features, repeats) in enumerate(_STAGES):
            for repeat in range(repeats):
                stride = 2 if stage > 0 and repeat == 0 else 1
                x = Bottleneck(features, stride, name=f"stage{stage}_{repeat}")(x, train)
        return x.mean(axis=(1, 2))


def _conv_norm(x, features: int, kernel: int, stride: int, train: bool, name: str):
    x = nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=(kernel - 1) // 2,
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        name=name,
    )(x)
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)

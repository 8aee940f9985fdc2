"""Progressive re-initialisation: spatial transformers for the face, then for its parts. Shao et al., TPAMI 2021.

Coordinates are those of `jaxlm.geometry`'s unit images: an image spans [−1, 1] from edge to edge. F_0 is the crop of
the given box, F_g the normalised face, F_l a normalised part.
"""

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxlm import geometry
from jaxlm.networks import mobilenet
from jaxlm.networks.blocks import average_pool, max_pool
from jaxlm.networks.mobilenet import InvertedResidual, MobileNetV2, RegressionHead, pointwise
from jaxlm.networks.resnet import ResNet50
from jaxlm.systems.reinit import alignment
from jaxlm.systems.reinit.sampler import warp

STAGES = ("reinit", "regressor", "local_reinit", "local_regressor")  # top-level names of the parameters
SIX_BLOCKS = ((1, 8, 2), (6, 16, 2), (6, 24, 2), (6, 32, 1), (6, 48, 2), (6, 64, 1))
BACKBONES = (*mobilenet.LAYOUTS, "resnet50")


class LocalizationNetwork(nn.Module):
    """Global re-initialisation network: predicts θ from a face of 128×128 pixels.

    The layers are those of the released weights.

    Attributes:
        kind: type of the map θ: "affine" (six numbers) or "similarity" (four).
    """

    kind: alignment.Kind = "affine"

    @nn.compact
    def __call__(self, images: Float[Array, "B 128 128 3"]) -> Float[Array, "B 2 3"]:
        x = images
        for number, (features, kernel, stride, pool) in enumerate(
            (
                (8, 5, 2, True),
                (16, 3, 1, False),
                (16, 3, 1, True),
                (32, 3, 1, False),
                (32, 3, 1, True),
                (64, 3, 1, False),
            )
        ):
            x = nn.Conv(features, (kernel, kernel), strides=stride, padding="VALID", name=f"conv{number}")(x)
            if pool:
                x = max_pool(x)
            x = nn.PReLU(negative_slope_init=0.25, name=f"prelu{number}")(x)
        # Channels first: the order in which the released weights flatten the features.
        return ThetaHead((32,), self.kind, name="head")(x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1))


class ThetaHead(nn.Module):
    """Fully connected layers that predict a 2×3 matrix; it is the identity before training.

    Attributes:
        widths: widths of the hidden layers.
        kind: type of the map, "affine" or "similarity".
    """

    widths: tuple[int, ...]
    kind: alignment.Kind

    @nn.compact
    def __call__(self, x: Float[Array, "B N"]) -> Float[Array, "B 2 3"]:
        if self.kind == "affine":
            change = RegressionHead(self.widths, 6, name="fc")(x).reshape(-1, 2, 3)
        else:
            cos, sin, *offset = jnp.moveaxis(RegressionHead(self.widths, 4, name="fc")(x), -1, 0)
            change = jnp.stack([jnp.stack([cos, -sin, offset[0]], -1), jnp.stack([sin, cos, offset[1]], -1)], -2)
        return change + jnp.eye(2, 3, dtype=change.dtype)[None]


class ShapeRegressor(nn.Module):
    """Backbone and fully connected layers that predict the displacement of each landmark from an image.

    Attributes:
        backbone: one of `BACKBONES`.
        num_landmarks: K, number of landmarks.
    """

    backbone: str
    num_landmarks: int

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B K 2"]:
        if self.backbone == "resnet50":
            x, widths = ResNet50(name="trunk")(images, train), (256, 256)
        else:
            widths = (256,) if self.backbone == "medium" else (256, 256)
            x = MobileNetV2(mobilenet.LAYOUTS[self.backbone], name="trunk")(images, train)
            x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)  # channels first, as the released weights have them
        return RegressionHead(widths, 2 * self.num_landmarks, name="head")(x).reshape(-1, self.num_landmarks, 2)


class PartRegressor(nn.Module):
    """Residual blocks and two fully connected layers that predict displacements of a part's landmarks from its patch.

    The paper has six blocks and gives no widths. The widths come closest to the parameters and FLOPs of Table 7.

    Attributes:
        num_landmarks: k, number of landmarks of the part.
        blocks: expansion, channels and stride of each residual block.
    """

    num_landmarks: int
    blocks: tuple[tuple[int, int, int], ...]

    @nn.compact
    def __call__(self, patches: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B k 2"]:
        x = nn.Conv(8, (3, 3), strides=2, padding=1, use_bias=False, name="stem")(patches)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="stem_norm")(x))
        for number, (expansion, features, stride) in enumerate(self.blocks):
            y = InvertedResidual(features, stride, expansion, name=f"block{number}")(x, train)
            if y.shape != x.shape:
                x = pointwise(features, f"shortcut{number}")(_every(x, stride))
                y = x + y
            x = y
        head = RegressionHead((832,), 2 * self.num_landmarks, name="head")
        return head(x.reshape(x.shape[0], -1)).reshape(-1, self.num_landmarks, 2)


def _every(x: Float[Array, "B H W C"], stride: int) -> Float[Array, "B h w C"]:
    """Every `stride`-th pixel in both directions.

    The barrier keeps this apart from the matrix product that follows. For one picture XLA's GPU compiler would abort
    (openxla/xla issue 47381).
    """
    return x if stride == 1 else lax.optimization_barrier(x[:, ::stride, ::stride])


class Locals(NamedTuple):
    """Result of the local stage for one part.

    Attributes:
        matrix: (B, 2, 3) map T_θl from the part's unit square F_l to F_g.
        initial: (B, k, 2) initial shape S_l0 in F_l.
        shape: (B, k, 2) refined shape in F_l.
        patch: (B, side, side, 3) image of the normalised part, RGB in [0, 255].
    """

    matrix: Array
    initial: Array
    shape: Array
    patch: Array


class Outputs(NamedTuple):
    """Outputs of `ProgressiveNetwork`: landmarks, and what the losses of the four training steps need.

    Attributes:
        matrix: (B, 2, 3) map T_θg from F_g to F_0; the identity without re-initialisation.
        theta: (B, 2, 3) θ as the localization network predicts it, see `ProgressiveNetwork.direction`; the normalising
            map F_0 → F_g if a first shape re-initialises; the identity without re-initialisation.
        first: (B, K, 2) shape of the first regressor in F_0 if it re-initialises (B2), else None.
        initial: (B, K, 2) initial shape S_g0 in F_g.
        shape: (B, K, 2) shape after the global stage in F_g.
        locals: result of the local stage for each part; empty without the local stage.
        local_thetas: (B, 2, 3) θ_l of each part as the networks predict it; empty without these networks.
        landmarks: (B, K, 2) final shape in F_0.
    """

    matrix: Array
    theta: Array
    first: Array | None
    initial: Array
    shape: Array
    locals: tuple[Locals, ...]
    local_thetas: tuple[Array, ...]
    landmarks: Array


class ProgressiveNetwork(nn.Module):
    """Global and local shape regression with re-initialisation.

    Attributes:
        num_landmarks: K, number of landmarks.
        parts: landmark indices of each part of the local stage; the others (the contour) keep the global stage's
            positions.
        backbone: backbone of the global regression, one of `BACKBONES`.
        reinitialize: none (the baseline B1), shape (B2: a first regressor's shape normalises the face) or network
            (GSR).
        refine: none, box (G&LSR*: patches around the global stage's shape) or network (G&LSR).
        kind: type of the maps, affine or similarity.
        direction: whether the localization networks predict T_θ, which samples ("sampling", the paper), or its inverse,
            which normalises ("normalizing", the released weights).
        local_input: input of the local re-initialisation: the shape of the part ("part", the paper) or of the whole
            face ("face", the released weights).
        margin: side of the normalised face or part divided by the side of the landmarks' box.
        reinit_side, global_side, local_side: sides of the networks' inputs in pixels.
        bgr: whether the networks take BGR instead of RGB, as the released weights do.
    """

    num_landmarks: int
    parts: tuple[tuple[int, ...], ...]
    backbone: str = "small"
    reinitialize: Literal["none", "shape", "network"] = "network"
    refine: Literal["none", "box", "network"] = "network"
    kind: alignment.Kind = "affine"
    direction: Literal["sampling", "normalizing"] = "sampling"
    local_input: Literal["part", "face"] = "part"
    margin: float = 1.2
    reinit_side: int = 128
    global_side: int = 256
    local_side: int = 64
    bgr: bool = False

    def setup(self):
        # A constant of the training set; see `jaxlm.systems.reinit.alignment.mean_shape`.
        self.mean_shape = self.variable("batch_stats", "mean_shape", jnp.zeros, (self.num_landmarks, 2))
        if self.reinitialize == "network":
            self.reinit: Any = LocalizationNetwork(self.kind)
        elif self.reinitialize == "shape":
            self.reinit = ShapeRegressor(self.backbone, self.num_landmarks)
        self.regressor = ShapeRegressor(self.backbone, self.num_landmarks)
        if self.refine == "network":
            self.local_reinit = LocalReinitialization(len(self.parts), self.kind)
        if self.refine != "none":
            blocks = SIX_BLOCKS if self.backbone != "nano" else ()
            self.local_regressor = LocalRegression(tuple(map(len, self.parts)), blocks)

    def __call__(self, images: Float[Array, "B S S 3"], train: tuple[str, ...] = ()) -> Outputs:
        """Predicts landmarks through all stages.

        Args:
            images: crops F_0, RGB in [0, 255]; the side S is a multiple of `reinit_side`.
            train: stages (of `STAGES`) whose batch norms use the batch's statistics and update the running ones.
        """
        matrix, theta, first = self.locate(images, train)
        face = images if self.reinitialize == "none" else warp(images, matrix, self.global_side)
        initial, shape, parts, thetas, final = self.regress(face, train)
        landmarks = geometry.apply_affine(matrix, final)
        return Outputs(matrix, theta, first, initial, shape, parts, thetas, landmarks)

    def locate(self, images: Float[Array, "B S S 3"], train: tuple[str, ...] = ()):
        """Runs the global re-initialisation on crops F_0.

        Returns:
            `matrix` (B, 2, 3), `theta` (B, 2, 3) and `first` (B, K, 2) or None, as `Outputs` describes them.
        """
        identity = jnp.broadcast_to(jnp.eye(2, 3), (images.shape[0], 2, 3))
        if self.reinitialize == "none":
            return identity, identity, None
        if self.reinitialize == "network":
            theta = self.reinit(self._input(images, self.reinit_side))
            return (theta if self.direction == "sampling" else geometry.invert_affine(theta)), theta, None
        change = self.reinit(self._input(images, self.global_side), "reinit" in train)
        first = self._mean() + change
        everything = jnp.ones(first.shape[:-1], bool)
        normalizing, _ = alignment.normalizing_map(
            first, everything, self.mean_shape.value, kind=self.kind, margin=self.margin
        )
        return geometry.invert_affine(normalizing), normalizing, first

    def regress(self, face: Float[Array, "B S S 3"], train: tuple[str, ...] = ()):
        """Runs the global and the local regression on normalised faces F_g.

        Returns:
            The initial shape S_g0, the global stage's shape S_g, the `Locals` of each part, θ_l of each part, and the
            refined shape. Shapes are (B, K, 2) in F_g.
        """
        initial = jnp.broadcast_to(self._mean(), (face.shape[0], self.num_landmarks, 2))
        shape = initial + self.regressor(self._input(face, self.global_side), "regressor" in train)
        if self.refine == "none":
            return initial, shape, (), (), shape
        thetas = ()
        if self.refine == "network":
            inputs = [shape if self.local_input == "face" else shape[:, list(part)] for part in self.parts]
            thetas = self.local_reinit([value.reshape(face.shape[0], -1) for value in inputs])
            matrices = thetas if self.direction == "sampling" else tuple(map(geometry.invert_affine, thetas))
        else:
            matrices = tuple(self._box_map(shape[:, list(part)]) for part in self.parts)
        patches = [warp(face, matrix, self.local_side) for matrix in matrices]
        changes = self.local_regressor([scale_pixels(patch, self.bgr) for patch in patches], "local_regressor" in train)
        parts, refined = [], shape
        for part, matrix, patch, change in zip(self.parts, matrices, patches, changes, strict=True):
            start = geometry.apply_affine(geometry.invert_affine(matrix), shape[:, list(part)])
            parts.append(Locals(matrix, start, start + change, patch))
            # Shape inverse transformer, Eq. (7). The contour keeps the global stage's positions.
            refined = refined.at[:, list(part)].set(geometry.apply_affine(matrix, start + change))
        return initial, shape, tuple(parts), tuple(thetas), refined

    def _mean(self) -> Array:
        """Initial shape S_g0 (1, K, 2): the mean shape as it lies in a normalised face."""
        return (self.mean_shape.value / self.margin)[None]

    def _box_map(self, shape: Float[Array, "B k 2"]) -> Float[Array, "B 2 3"]:
        center, half = alignment.bounding_box(shape, jnp.ones(shape.shape[:-1], bool))
        half = jnp.maximum(self.margin * half.max(axis=-1), 1e-3)
        linear = half[:, None, None] * jnp.eye(2, dtype=shape.dtype)[None]
        return jnp.concatenate([linear, center[..., None]], axis=-1)

    def _input(self, images: Array, side: int) -> Array:
        if images.shape[1] % side == 0:
            images = average_pool(images, images.shape[1] // side)
        else:
            images = warp(images, jnp.broadcast_to(jnp.eye(2, 3), (images.shape[0], 2, 3)), side)
        return scale_pixels(images, self.bgr)


class LocalReinitialization(nn.Module):
    """Local re-initialisation: three fully connected layers for each part, which predict θ_l from a shape."""

    num_parts: int
    kind: alignment.Kind

    @nn.compact
    def __call__(self, shapes: list[Array]) -> tuple[Array, ...]:
        heads = [ThetaHead((128, 64), self.kind, name=f"part{number}") for number in range(self.num_parts)]
        return tuple(head(shape) for head, shape in zip(heads, shapes, strict=True))


class LocalRegression(nn.Module):
    """Local regression: one `PartRegressor` for each part."""

    sizes: tuple[int, ...]
    blocks: tuple[tuple[int, int, int], ...]

    @nn.compact
    def __call__(self, patches: list[Array], train: bool) -> tuple[Array, ...]:
        networks = [PartRegressor(size, self.blocks, name=f"part{number}") for number, size in enumerate(self.sizes)]
        return tuple(network(patch, train) for network, patch in zip(networks, patches, strict=True))


def scale_pixels(images: Array, bgr: bool) -> Array:
    """Scales pixels from [0, 255] to [−1, 1], and reorders RGB to BGR if `bgr`."""
    return (images[..., ::-1] if bgr else images) / 127.5 - 1.0

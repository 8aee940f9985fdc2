"""Landmark deep equilibrium model (LDEQ), Micaelli et al., CVPR 2023, section 3.

The equilibrium is z* = f(z*, x; θ) with f(z, x; θ) = σ(h([x, z]; θ)) (Eqs. 1–3); the landmarks are p = Φ(z*). The
stem, the hourglass h and the norms, which the paper does not specify, follow the released model. `LDEQ` holds only
sizes; its methods are pure functions of the variables passed to them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxlm import geometry, heatmaps
from jaxlm.implicit import Solver, equilibrium
from jaxlm.networks.blocks import ConvBlock, check_sides, imagenet_normalize, max_pool, normalize_heatmaps
from jaxlm.networks.convolution import conv_general_dilated, same_convolution
from jaxlm.networks.hourglass import Hourglass
from jaxlm.networks.normalization import EPSILON, LeakyGroupNorm
from jaxlm.solvers import FEW_STEPS, SolverStats

STRIDE = 4  # image pixels per heatmap cell

# Arguments of `LDEQ`: channels of the stem; width, growth and depth of the hourglass.
PRESETS: dict[str, dict[str, Any]] = {
    "nano": dict(channels=16, width=16, growth=8, depth=1),
    "tiny": dict(channels=32, width=32, growth=8, depth=3),
    "slim": dict(channels=32, width=16, growth=8, depth=3),
    "small": dict(channels=96, width=96, growth=16, depth=4),
    "paper": dict(channels=264, width=264, growth=24, depth=4),
    "paper_224": dict(channels=224, width=224, growth=24, depth=4),
}


class Stem(nn.Module):
    """Computes the features x from images, at a quarter of their resolution; uses batch norm."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w C"]:
        def block(features, kernel, stride, name):
            return ConvBlock(features, kernel, stride, norm="batch", dtype=self.dtype, name=name)

        x = block(self.channels // 4, 7, 2, "conv_0")(images, train)
        x = block(self.channels // 2, 3, 1, "conv_1")(x, train)
        x = max_pool(x)
        return block(self.channels, 3, 1, "conv_2")(x, train)


class SplitConv(nn.Module):
    """1×1 convolution of [x, z] as the sum of its two parts, because x stays the same in all steps of a solver.

    Attributes:
        inputs: number of channels of x.
        states: number of channels of z.
        features: number of output channels.
        dtype: type of the activations.
    """

    inputs: int
    states: int
    features: int
    dtype: Any = jnp.float32

    def setup(self):
        shape = (1, 1, self.inputs + self.states, self.features)
        self.kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)

    def of_input(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w features"]:
        """The part of x, with the bias."""
        kernel = self.kernel[:, :, : self.inputs].astype(self.dtype)
        return same_convolution(x.astype(self.dtype), kernel) + self.bias.astype(self.dtype).reshape(1, 1, 1, -1)

    def of_state(self, z: Float[Array, "B h w K"]) -> Float[Array, "B h w features"]:
        """The part of z."""
        return same_convolution(z.astype(self.dtype), self.kernel[:, :, self.inputs :].astype(self.dtype))


class Entry(nn.Module):
    """The cell's first block: 1×1 convolution of [x, z], LeakyReLU and group norm, as in `ConvBlock`."""

    inputs: int
    states: int
    features: int
    dtype: Any = jnp.float32
    epsilon: float = EPSILON

    def setup(self):
        self.conv = SplitConv(self.inputs, self.states, self.features, self.dtype)
        self.norm = LeakyGroupNorm(groups=8, dtype=self.dtype, epsilon=self.epsilon)

    def inject(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w features"]:
        """What the stem's features x add to every step."""
        return self.conv.of_input(x)

    def __call__(self, z: Float[Array, "B h w K"], injection: Float[Array, "B h w features"]):
        return self.norm(self.conv.of_state(z) + injection)


class Cell(nn.Module):
    """Cell f(z, x; θ) of Eq. (2): maps heatmaps z and an injection of x to heatmaps in (0, 1].

    The injection is the part of the first convolution that reads x. A solver computes it once.
    """

    num_landmarks: int
    channels: int
    width: int
    growth: int
    depth: int
    temperature: float
    dtype: Any = jnp.float32
    epsilon: float = EPSILON

    def setup(self):
        self.enter = Entry(self.channels, self.num_landmarks, self.width, self.dtype, self.epsilon)
        self.hourglass = Hourglass(self.width, self.growth, self.depth, dtype=self.dtype, epsilon=self.epsilon)
        self.exit = nn.Conv(
            self.num_landmarks,
            (1, 1),
            padding=((0, 0), (0, 0)),
            dtype=self.dtype,
            conv_general_dilated=conv_general_dilated,
        )

    def inject(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w width"]:
        """Injection of the stem's features x."""
        return self.enter.inject(x)

    def __call__(self, z: Float[Array, "B h w K"], injection: Float[Array, "B h w width"]) -> Float[Array, "B h w K"]:
        logits = self.exit(self.hourglass(self.enter(z, injection)))
        wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return normalize_heatmaps(wide, self.temperature).astype(z.dtype)


class Output(NamedTuple):
    """Output of the LDEQ.

    Attributes:
        landmarks: (B, K, 2) in pixels of the input image.
        heatmaps: (B, H/4, W/4, K) in (0, 1], the equilibrium z*; warm start of the next frame.
        stats: statistics of the forward solver; None for `LDEQ.explicit`.
        batch_stats: running statistics of the stem, updated in training and unchanged at inference.
    """

    landmarks: Float[Array, "B K 2"]
    heatmaps: Float[Array, "B h w K"]
    stats: SolverStats | None
    batch_stats: Any


@dataclasses.dataclass(frozen=True)
class LDEQ:
    """Landmark deep equilibrium model of given sizes.

    Attributes:
        num_landmarks: K, number of landmarks.
        channels: C, number of channels of the stem's features; divisible by 4.
        width: w, number of channels of the hourglass's first level; divisible by 8.
        growth: δ, number of channels that each further level adds; divisible by 8.
        depth: number of levels of the hourglass.
        temperature: T of Eq. (3).
        dtype: type of the activations inside stem and hourglass; z, σ and all sums are float32.
        untied: number of cells with parameters of their own, for `explicit` alone: a stacked hourglass. 0 for one cell
            that is applied again and again.
        released: whether cell c of a heatmap is image pixel 4c and group norm's ε 1e-5, as in the released model,
            instead of 4c + 1.5 and 1e-6.
    """

    num_landmarks: int
    channels: int = 264
    width: int = 264
    growth: int = 24
    depth: int = 4
    temperature: float = 2.5
    dtype: Any = jnp.float32
    untied: int = 0
    released: bool = False

    def __post_init__(self):
        if self.channels % 4 or self.width % 8 or self.growth % 8:
            raise ValueError(
                "channels must be divisible by 4, width and growth by 8, got "
                f"channels={self.channels}, width={self.width}, growth={self.growth}."
            )

    @property
    def _stem(self) -> Stem:
        return Stem(self.channels, self.dtype)

    @property
    def _cell(self) -> Cell:
        epsilon = 1e-5 if self.released else EPSILON
        sizes = (self.channels, self.width, self.growth, self.depth)
        return Cell(self.num_landmarks, *sizes, self.temperature, self.dtype, epsilon)

    def init(self, rng: Array) -> dict[str, Any]:
        """Initial variables {"params": {"stem", "cell"}, "batch_stats"}, of the same shapes for every image size."""
        side = 2**self.depth
        stem_rng, cell_rng = jax.random.split(rng)
        stem = self._stem.init(stem_rng, jnp.zeros((1, STRIDE * side, STRIDE * side, 3)), False)
        injection = jnp.zeros((1, side, side, self.width), self.dtype)

        def cell(rng):
            return self._cell.init(rng, jnp.zeros((1, side, side, self.num_landmarks)), injection)["params"]

        keys = jax.random.split(cell_rng, self.untied)
        cells = {_stage(i): cell(key) for i, key in enumerate(keys)} if self.untied else cell(cell_rng)
        return {"params": {"stem": stem["params"], "cell": cells}, "batch_stats": stem["batch_stats"]}

    def inject(
        self, variables: Mapping[str, Any], images: Float[Array, "B H W 3"], train: bool = False
    ) -> tuple[Float[Array, "B h w width"], Any]:
        """Injection of the images (RGB, [0, 255]) and the stem's running statistics, updated if `train`.

        Raises:
            ValueError: if the image's sides are not divisible by 4 · 2^depth.
        """
        x, batch_stats = self._features(variables, images, train)
        return self._inject(variables["params"]["cell"], x), batch_stats

    def _features(self, variables, images, train: bool):
        """The stem's features, and its running statistics."""
        check_sides(images, STRIDE, self.depth)
        stem = {"params": variables["params"]["stem"], "batch_stats": variables["batch_stats"]}
        images, batch_stats = imagenet_normalize(images.astype(jnp.float32)), variables["batch_stats"]
        if train:
            x, updated = self._stem.apply(stem, images, True, mutable=["batch_stats"])
            batch_stats = updated["batch_stats"]
        else:
            x: Any = self._stem.apply(stem, images, False)
        return x, batch_stats

    def _inject(self, cell, x) -> Any:
        return self._cell.apply({"params": cell}, x, method="inject")

    def cell(
        self, z: Float[Array, "B h w K"], args: tuple[Any, Float[Array, "B h w width"]]
    ) -> Float[Array, "B h w K"]:
        """Applies the cell f(z, x; θ), with args = (parameters of the cell, injection) as `equilibrium` passes them."""
        params, injection = args
        heatmaps: Any = self._cell.apply({"params": params}, z, injection)
        return heatmaps

    def initial_heatmaps(self, images: Num[Array, "B H W 3"]) -> Float[Array, "B h w K"]:
        """First iterate z⁰ = 0 for these images."""
        batch, height, width, _ = images.shape
        return jnp.zeros((batch, height // STRIDE, width // STRIDE, self.num_landmarks))

    def __call__(
        self,
        variables: Mapping[str, Any],
        images: Float[Array, "B H W 3"],
        *,
        solver: Solver,
        z0: Float[Array, "B h w K"] | None = None,
        train: bool = False,
        **equilibrium_options: Any,
    ) -> Output:
        """Landmarks and heatmaps of the images at the equilibrium, with gradients for training.

        Args:
            variables: from `init` or a checkpoint.
            images: RGB in [0, 255].
            solver: solver of the forward fixed point.
            z0: first iterate, such as the previous frame's heatmaps; zeros if None.
            train: whether the stem uses the batch's statistics and updates the running ones.
            **equilibrium_options: options of `jaxlm.implicit.equilibrium`: gradient, adjoint solver, probe.
        """
        injection, batch_stats = self.inject(variables, images, train)
        z0 = self.initial_heatmaps(images) if z0 is None else z0
        args = (variables["params"]["cell"], injection)
        z, stats = equilibrium(self.cell, z0, args, solver=solver, **equilibrium_options)
        return Output(self.to_landmarks(z), z, stats, batch_stats)

    def predict(
        self,
        variables: Mapping[str, Any],
        images: Float[Array, "B H W 3"],
        *,
        solver: Solver,
        z0: Float[Array, "B h w K"] | None = None,
    ) -> Output:
        """Landmarks and heatmaps of the images at the equilibrium, for inference.

        Gives the same numbers as `__call__` outside training, but skips its last application of the cell, which only
        gradients need.

        Args:
            variables: from `init` or a checkpoint.
            images: RGB in [0, 255].
            solver: fixed-point solver with the option `image`; see `jaxlm.solvers`.
            z0: first iterate, such as the previous frame's heatmaps; zeros if None.
        """
        injection, batch_stats = self.inject(variables, images)
        z0 = self.initial_heatmaps(images) if z0 is None else z0
        args = (variables["params"]["cell"], injection)
        z, stats = solver(lambda z: self.cell(z, args), z0, image=True)
        return Output(self.to_landmarks(z), z, stats, batch_stats)

    def explicit(
        self,
        variables: Mapping[str, Any],
        images: Float[Array, "B H W 3"],
        *,
        num_steps: int,
        train: bool = False,
    ) -> tuple[Output, Float[Array, "S B h w K"]]:
        """Explicit network: applies the cell, or each of the untied ones, from z⁰ = 0, with plain backpropagation.

        Args:
            variables: from `init` or a checkpoint.
            images: RGB in [0, 255].
            num_steps: applications of the cell; the number of untied cells if there are such.
            train: whether the stem uses the batch's statistics and updates the running ones.

        Returns:
            The output after the last application, and the heatmaps (num_steps, B, h, w, K) after every application,
            for supervision at each stage.

        Raises:
            ValueError: if `num_steps` is not the number of untied cells.
        """
        if self.untied not in (0, num_steps):
            raise ValueError(f"num_steps is {num_steps}, but there are {self.untied} untied cells.")
        x, batch_stats = self._features(variables, images, train)
        z, cells = self.initial_heatmaps(images), variables["params"]["cell"]
        if self.untied:
            stages = []
            for i in range(self.untied):
                z = self.cell(z, (cells[_stage(i)], self._inject(cells[_stage(i)], x)))
                stages.append(z)
            return Output(self.to_landmarks(z), z, None, batch_stats), jnp.stack(stages)
        args = (cells, self._inject(cells, x))

        def step(z, _):
            z = self.cell(z, args)
            return z, z

        z, stages = jax.lax.scan(step, z, None, length=num_steps, unroll=num_steps <= FEW_STEPS)
        return Output(self.to_landmarks(z), z, None, batch_stats), stages

    def to_landmarks(self, z: Float[Array, "B h w K"]) -> Float[Array, "B K 2"]:
        """Landmarks Φ(z) in image pixels, by soft-argmax."""
        cells = heatmaps.soft_argmax(z)
        return STRIDE * cells if self.released else geometry.rescale_points(cells, STRIDE)


def _stage(number: int) -> str:
    return f"stage_{number}"

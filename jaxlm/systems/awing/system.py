"""Adaptive Wing as a system: a stacked hourglass that regresses heatmaps, Wang et al., ICCV 2019."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxlm import geometry, heatmaps, metrics
from jaxlm.networks.blocks import make_dtype
from jaxlm.schemes import get_scheme
from jaxlm.systems import Prediction, System, TrainState, initial_state
from jaxlm.systems.awing.network import STRIDE, StackedHourglass
from jaxlm.systems.awing.settings import Config
from jaxlm.systems.objective import Objective, make_objective
from jaxlm.systems.optim import apply_gradients, make_optimizer, make_schedule

DECODERS = ("quarter_pixel", "soft_argmax", "local_soft_argmax")


def build(config: Config) -> System:
    """System of `config.model`, `config.loss`, `config.heatmap`, `config.decode` and `config.optim`.

    Raises:
        ValueError: for sizes that do not fit, an unknown loss, decoder or dtype, or a loss on landmarks without a
            temperature.
    """
    model = make_model(config)
    if config.decode not in DECODERS:
        raise ValueError(f"There is no decoder {config.decode!r}; choose one of {', '.join(DECODERS)}.")
    if config.loss.on == "landmarks" and not config.model.temperature > 0:
        raise ValueError("A loss on landmarks goes through a soft-argmax: set model.temperature above 0, to 2.5 say.")
    if config.loss.on == "landmarks" and model.boundary:
        raise ValueError("A loss on landmarks does not teach a boundary: set model.boundary = False.")
    system = AwingSystem(
        config,
        model,
        optimizer=make_optimizer(config.optim, make_schedule(config.optim, config.train.num_steps)),
        objective=make_objective(config),
    )
    return System(system.init, system.train_step, system.predict)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AwingSystem:
    """The functions of `System`, over what they share.

    Attributes:
        config: of the experiment.
        model: the network.
        optimizer: of the parameters.
        objective: heatmaps of S stages and a batch -> loss.
    """

    config: Config
    model: StackedHourglass
    optimizer: optax.GradientTransformation
    objective: Objective

    def init(self, rng: Array) -> TrainState:
        """State before the first step."""
        side = STRIDE * 2**self.model.depth
        return initial_state(self.model.init(rng, jnp.zeros((1, side, side, 3)), True), self.optimizer)

    def loss(self, params: Any, state: TrainState, batch: dict[str, Array]):
        """Loss of a batch; the last stage's heatmaps, and the new running statistics."""
        variables = {"params": params, "batch_stats": state.batch_stats}
        stages: Any
        images = batch["image"].astype(jnp.float32)
        stages, updated = self.model.apply(variables, images, True, mutable=["batch_stats"])
        return self.objective(stages, batch), (stages[-1], updated["batch_stats"])

    def train_step(self, state: TrainState, batch: dict[str, Array], rng: Array):
        """One step of the optimiser."""
        del rng
        differentiate = jax.value_and_grad(self.loss, has_aux=True)
        (loss, (last, batch_stats)), gradient = differentiate(state.params, state, batch)
        state, grad_norm = apply_gradients(self.optimizer, self.config.optim.ema, state, gradient, batch_stats)
        landmarks, _ = self.decode(last)
        error = metrics.nme(landmarks, batch["landmarks"], batch["normalizer"], batch["mask"])
        return state, {"loss": loss, "grad_norm": grad_norm, "nme": jnp.nanmean(error)}

    def decode(self, maps: Float[Array, "B h w C"]) -> tuple[Float[Array, "B K 2"], Float[Array, "B K"]]:
        """Landmarks in pixels and their scores: the peak's height, or how narrow a soft-argmax's heatmap is."""
        maps = maps[..., : self.model.num_landmarks]
        if self.config.decode == "quarter_pixel":
            cells, score = heatmaps.quarter_pixel(maps), jnp.clip(maps.max(axis=(1, 2)), 1e-6, 1.0)
        else:
            local = self.config.decode == "local_soft_argmax"
            radius = self.config.heatmap.decode_radius if local else max(maps.shape[1:3])
            maps = heatmaps.around_peak(maps, radius)
            cells, score = heatmaps.soft_argmax(maps), heatmaps.confidence(maps)
        return geometry.rescale_points(cells, STRIDE), score

    def predict(self, variables: Any, images: Array) -> Prediction:
        """Landmarks of crops; `aux` has the last stage's heatmaps, with the boundary channel as the last one."""
        images = images.astype(jnp.float32)
        maps = self._last_stage(variables, images)
        if self.config.eval.flip_average:
            order = get_scheme(self.config.scheme).flip
            if self.model.boundary:
                order = jnp.append(order, self.model.num_landmarks)
            maps = (maps + self._last_stage(variables, images[:, :, ::-1])[:, :, ::-1, order]) / 2
        return Prediction(*self.decode(maps), {"heatmaps": maps})

    def _last_stage(self, variables: Any, images: Array) -> Array:
        stages: Any = self.model.apply(variables, images, False)
        return stages[-1]


def make_model(config: Config) -> StackedHourglass:
    """The network of `config.model`."""
    known = {field.name for field in dataclasses.fields(StackedHourglass)} - {"num_landmarks", "parent", "name"}
    if set(config.model) != known:
        wrong = ", ".join(sorted(set(config.model) ^ known))
        raise ValueError(f"config.model must have the fields {', '.join(sorted(known))}; wrong or missing: {wrong}.")
    sizes = config.model.to_dict()
    dtype = make_dtype(sizes.pop("dtype"))
    return StackedHourglass(get_scheme(config.scheme).num_landmarks, dtype=dtype, **sizes)

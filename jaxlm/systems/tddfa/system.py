"""3DDFA_V2 as a system: 3DMM parameters by regression, with the paper's losses. Guo et al., ECCV 2020."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxlm import geometry, metrics, schemes
from jaxlm.face3d import parameters
from jaxlm.face3d.model_files import model_of
from jaxlm.face3d.morphable import MorphableModel, landmark_model
from jaxlm.systems import OUTPUTS, Prediction, System, TrainState, TrainStep, initial_state
from jaxlm.systems.optim import apply_gradients, make_optimizer, make_schedule
from jaxlm.systems.tddfa import lookahead, synthesis
from jaxlm.systems.tddfa.costs import Cost, make_costs
from jaxlm.systems.tddfa.network import BACKBONES, ParameterNetwork
from jaxlm.systems.tddfa.settings import Config

LOSSES = ("fwpdc", "wpdc", "vdc", "vanilla_joint", "vdc_from_fwpdc", "meta_joint")
LANDMARK_TERMS = ("none", "lrr", "lmk")


def build(config: Config) -> System:
    """System of `config.model`, `config.morphable`, `config.loss`, `config.meta`, `config.synthesis`, `config.optim`.

    Raises:
        ValueError: for a field or choice that does not exist, or a morphable model that cannot be read.
    """
    system = make_system(config)
    outputs = {**OUTPUTS, "params": "of the 3D face, in the frame of the crop: see jaxlm/face3d/parameters.py"}
    made = System(system.init, system.step(system.costs[-1]), system.predict, fit=system.fit, outputs=outputs)
    if config.loss.name == "meta_joint":
        steps = system.lookahead()
        mesh = functools.partial(lookahead.branch_mesh, len(system.costs))
        return made._replace(
            train_step=steps.advance,
            schedule=functools.partial(_of_round, steps, config.meta.k),
            round=config.meta.k + 1,
            mesh=mesh if config.meta.branches == "devices" else None,
        )
    if len(system.costs) > 1:
        first = round(config.train.num_steps * config.loss.share)
        return made._replace(schedule=functools.partial(_of_two, first, system.step(system.costs[0]), made.train_step))
    return made


def make_system(config: Config) -> "TddfaSystem":
    """The functions of the system and what they share; `build` makes a `System` of them.

    Raises:
        ValueError: as `build` does.
    """
    _check(config)
    model = model_of(config)
    return TddfaSystem(
        config,
        network=ParameterNetwork(num_params=model.num_params, **config.model.to_dict()),
        model=model,
        sparse=landmark_model(model),
        costs=make_costs(config, model),
        vertex_error=make_costs(config, model, "vdc")[0],
        prepare=synthesis.make_synthesis(config, model),
        optimizer=make_optimizer(config.optim, make_schedule(config.optim, optimizer_steps(config))),
    )


def identity(config: Config) -> dict[str, Any]:
    """The network and the face model; its file may lie elsewhere. Landmarks of every scheme are made of its own."""
    settings = config.morphable
    face_model = ("head" if settings.path == "head" else "file", settings.identity, settings.expression)
    return {
        "system": config.system,
        "model": config.model,
        "morphable (head or file, identity and expression modes)": face_model,
    }


def continuation(config: Config) -> tuple[str, ...]:
    """Fields that say which loss takes which batch."""
    del config
    return ("loss", "meta", "synthesis", "train.num_steps")


def _of_round(steps: lookahead.Steps, k: int, number: int) -> tuple[str, TrainStep]:
    """Algorithm 1: k batches train both branches, the next one selects."""
    return "", steps.select if number % (k + 1) == 0 else steps.advance


def _of_two(first: int, fwpdc: TrainStep, vdc: TrainStep, number: int) -> tuple[str, TrainStep]:
    """VDC from fWPDC: fWPDC for the first batches, then VDC."""
    return ("fwpdc", fwpdc) if number <= first else ("vdc", vdc)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TddfaSystem:
    """The functions of `System`, over what they share.

    Attributes:
        config: of the experiment.
        network: image -> z-scored parameters and, in training, landmarks.
        model: the face model.
        sparse: its landmark vertices alone.
        costs: the losses: one, or those of the two phases or branches.
        vertex_error: VDC of a batch, for the logs and the selection.
        prepare: (batch, rng) -> the batch that is trained on, with short videos made of its stills.
        optimizer: of the parameters.
    """

    config: Config
    network: ParameterNetwork
    model: MorphableModel
    sparse: MorphableModel
    costs: tuple[Cost, ...]
    vertex_error: Cost
    prepare: Callable[[dict[str, Array], Array], dict[str, Array]]
    optimizer: optax.GradientTransformation

    def init(self, rng: Array) -> TrainState:
        """State before the first step; with meta-joint optimisation a stack of a state for each branch."""
        size = self.config.image_size
        variables = self.network.init(rng, jnp.zeros((1, size, size, 3)), False)
        statistics = {"param_mean": self.model.param_mean, "param_std": self.model.param_std}
        live = {"params": variables["params"], "batch_stats": {**variables["batch_stats"], **statistics}}
        state = initial_state(live, self.optimizer)
        return lookahead.branch(state, len(self.costs)) if self.config.loss.name == "meta_joint" else state

    def fit(self, state: TrainState, labels: dict[str, np.ndarray]) -> TrainState:
        """The state with the mean and deviation of the training set's parameters, where they are not given."""
        settings = self.config.morphable
        if settings.statistics and settings.labels == "given":
            return state  # statistics of fitted labels are the fits' prior, and the labels have their own
        params = labels["params"].astype(np.float64)
        deviation = params.std(axis=0)
        statistics = {"param_mean": params.mean(axis=0), "param_std": np.where(deviation > 0, deviation, 1.0)}

        def put(tree: dict[str, Any]) -> dict[str, Any]:
            return {**tree, **{k: jnp.broadcast_to(v, tree[k].shape).astype("float32") for k, v in statistics.items()}}

        ema = {**state.ema, "batch_stats": put(state.ema["batch_stats"])}
        return state._replace(batch_stats=put(state.batch_stats), ema=ema)

    def points(self, params: Array, batch_stats: Any) -> Float[Array, "B 68 2"]:
        """Landmarks in crop pixels of z-scored parameters."""
        whole = parameters.undo_z_score(params, _scored(batch_stats, self.sparse))
        return parameters.crop_pixels(parameters.vertices(whole, self.sparse)[..., :2], self.config.image_size)

    def loss(self, params, batch_stats: Any, batch: dict[str, Array], rng: Array, cost: Cost):
        """Loss of a batch; the new running statistics, and the NME and the VDC of a vertex."""
        size, term_name = self.config.image_size, self.config.loss.landmarks
        model = _scored(batch_stats, self.model)
        variables = {"params": params, "batch_stats": batch_stats}
        (pred, regressed), updated = self.network.apply(variables, batch["image"], True, mutable=["batch_stats"])
        target = parameters.z_score(batch["params"], model)
        loss = cost(pred, target, model, rng)
        points, truth = self.points(pred, batch_stats), self.points(target, batch_stats)
        if term_name != "none":
            found = regressed if term_name == "lrr" else geometry.to_unit(points, size)
            term = jnp.square(found - geometry.to_unit(truth, size)).mean()
            loss += jax.lax.stop_gradient(jnp.abs(loss) / jnp.maximum(jnp.abs(term), 1e-12)) * term
        batch_stats = {**updated["batch_stats"], **{k: batch_stats[k] for k in ("param_mean", "param_std")}}
        distance = self.vertex_error(jax.lax.stop_gradient(pred), target, model, rng)
        error = jnp.nanmean(metrics.nme(points, truth, batch["normalizer"]))
        return loss, (batch_stats, {"nme": error, "vdc": distance})

    def step(self, cost: Cost) -> TrainStep:
        """The training step with one loss."""
        return functools.partial(self._take_step, cost)

    def _take_step(self, cost: Cost, state: TrainState, batch: dict[str, Array], rng: Array):
        batch = self.prepare(batch, jax.random.fold_in(rng, 1))
        differentiate = jax.value_and_grad(self.loss, has_aux=True)
        (loss, (batch_stats, logs)), gradient = differentiate(state.params, state.batch_stats, batch, rng, cost)
        state, grad_norm = apply_gradients(self.optimizer, self.config.optim.ema, state, gradient, batch_stats)
        return state, {"loss": loss, "grad_norm": grad_norm, **logs}

    def lookahead(self) -> lookahead.Steps:
        """The steps of the meta-joint optimisation."""
        return lookahead.make_steps(self.loss, self.costs, self.optimizer, self.prepare, self.config)

    def predict(self, variables: Any, images: Array) -> Prediction:
        """Landmarks of crops, in the config's scheme; `aux` has the parameters, not z-scored."""
        pred, _ = self.network.apply(variables, images.astype(jnp.float32), False)
        points = self.points(pred, variables["batch_stats"])
        whole = parameters.undo_z_score(pred, _scored(variables["batch_stats"], self.model))
        to_scheme = jnp.asarray(schemes.from_68(self.config.scheme))
        return Prediction(to_scheme[None] @ points, jnp.ones((pred.shape[0], len(to_scheme))), {"params": whole})


def _scored(batch_stats: Any, model: MorphableModel) -> MorphableModel:
    """The model with the parameters' statistics of a state."""
    return model._replace(param_mean=batch_stats["param_mean"], param_std=batch_stats["param_std"])


def optimizer_steps(config: Config) -> int:
    """Steps of the optimiser in the whole training: with meta-joint optimisation one batch in k + 1 selects."""
    steps = config.train.num_steps
    return steps - steps // (config.meta.k + 1) if config.loss.name == "meta_joint" else steps


def _check(config: Config) -> None:
    known = {field.name for field in dataclasses.fields(ParameterNetwork)} - {"num_params", "parent", "name"}
    if set(config.model) != known:
        wrong = ", ".join(sorted(set(config.model) ^ known))
        raise ValueError(f"config.model must have the fields {', '.join(sorted(known))}; wrong or missing: {wrong}.")
    choices = {
        "model.backbone": (config.model.backbone, BACKBONES),
        "loss.name": (config.loss.name, LOSSES),
        "loss.landmarks": (config.loss.landmarks, LANDMARK_TERMS),
    }
    for field, (value, names) in choices.items():
        if value not in names:
            raise ValueError(f"{field} must be one of {', '.join(names)}, got {value!r}.")
    if config.model.num_landmarks not in (0, 68):
        raise ValueError("model.num_landmarks must be 68, or 0 for no landmark branch.")
    if config.loss.landmarks == "lrr" and not config.model.num_landmarks:
        raise ValueError("loss.landmarks = lrr needs the landmark branch: set model.num_landmarks to 68.")
    if not 0 <= config.loss.beta <= 1 or not 0 < config.loss.share < 1 or config.loss.vertices < 0:
        raise ValueError("loss.beta must lie in [0, 1], loss.share in (0, 1), and loss.vertices must not be negative.")
    schemes.from_68(config.scheme)
    if config.meta.k < 1:
        raise ValueError(f"meta.k must be at least 1, got {config.meta.k}.")
    for field in ("num_steps", "checkpoint_every") if config.loss.name == "meta_joint" else ():
        if config.train[field] % (config.meta.k + 1):
            raise ValueError(
                f"train.{field} = {config.train[field]} must be a multiple of a round's {config.meta.k + 1} batches "
                "(meta.k + 1)."
            )
    if config.eval.flip_average:
        raise ValueError("eval.flip_average must be False: a mirrored face has other parameters.")

"""3DDFA_V2 as a system: 3DMM parameters by regression, with the paper's losses. Guo et al., ECCV 2020."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlm import geometry, metrics, schemes
from jaxlm.config import Config
from jaxlm.face3d import parameters
from jaxlm.face3d.model_files import model_of
from jaxlm.face3d.morphable import MorphableModel, landmark_model
from jaxlm.systems import Phase, Prediction, System, TrainState, initial_state
from jaxlm.systems.optim import apply_gradients, make_optimizer, make_schedule
from jaxlm.systems.tddfa import lookahead, synthesis
from jaxlm.systems.tddfa.costs import Cost, make_costs
from jaxlm.systems.tddfa.network import BACKBONES, ParameterNetwork

LOSSES = ("fwpdc", "wpdc", "vdc", "vanilla_joint", "vdc_from_fwpdc", "meta_joint")
LANDMARK_TERMS = ("none", "lrr", "lmk")


def build(config: Config) -> System:
    """System of `config.model`, `config.morphable`, `config.loss`, `config.meta`, `config.synthesis`, `config.optim`.

    Raises:
        ValueError: for a field or choice that does not exist, or a morphable model that cannot be read.
    """
    _check(config)
    model = model_of(config)
    sparse = landmark_model(model)
    network = ParameterNetwork(num_params=model.num_params, **config.model.to_dict())
    prepare = synthesis.make_synthesis(config, model)
    costs = make_costs(config, model)
    (error_of,) = make_costs(config, model, "vdc")
    optimizer = make_optimizer(config.optim, make_schedule(config.optim, optimizer_steps(config)))
    to_scheme = jnp.asarray(schemes.from_68(config.scheme))

    def init(rng: Array) -> TrainState:
        variables = network.init(rng, jnp.zeros((1, config.image_size, config.image_size, 3)), False)
        statistics = {"param_mean": model.param_mean, "param_std": model.param_std}
        live = {"params": variables["params"], "batch_stats": {**variables["batch_stats"], **statistics}}
        state = initial_state(live, optimizer)
        return lookahead.branch(state, len(costs)) if config.loss.name == "meta_joint" else state

    def fit(state: TrainState, labels: dict[str, np.ndarray]) -> TrainState:
        if config.morphable.statistics and config.morphable.labels == "given":
            return state  # else they are the prior of the fits, and those have their own
        params = labels["params"].astype(np.float64)
        deviation = params.std(axis=0)
        statistics = {"param_mean": params.mean(axis=0), "param_std": np.where(deviation > 0, deviation, 1.0)}

        def put(tree: dict[str, Any]) -> dict[str, Any]:
            return {**tree, **{k: jnp.broadcast_to(v, tree[k].shape).astype("float32") for k, v in statistics.items()}}

        ema = {**state.ema, "batch_stats": put(state.ema["batch_stats"])}
        return state._replace(batch_stats=put(state.batch_stats), ema=ema)

    def scored(batch_stats: Any, of: MorphableModel) -> MorphableModel:
        return of._replace(param_mean=batch_stats["param_mean"], param_std=batch_stats["param_std"])

    def points_of(params: Array, batch_stats: Any) -> Float[Array, "B 68 2"]:
        """Landmarks in crop pixels of z-scored parameters."""
        whole = parameters.undo_z_score(params, scored(batch_stats, sparse))
        return parameters.crop_pixels(parameters.vertices(whole, sparse)[..., :2], config.image_size)

    def loss_of(params, batch_stats: Any, batch: dict[str, Array], rng: Array, cost: Cost):
        """Loss; the landmarks, what the norms counted, and the VDC per vertex of the batch."""
        variables = {"params": params, "batch_stats": batch_stats}
        (pred, regressed), updated = network.apply(variables, batch["image"], True, mutable=["batch_stats"])
        target = parameters.z_score(batch["params"], scored(batch_stats, model))
        loss = cost(pred, target, scored(batch_stats, model), rng)
        points, truth = points_of(pred, batch_stats), points_of(target, batch_stats)
        if config.loss.landmarks != "none":
            found = regressed if config.loss.landmarks == "lrr" else geometry.to_unit(points, config.image_size)
            term = jnp.square(found - geometry.to_unit(truth, config.image_size)).mean()
            loss += jax.lax.stop_gradient(jnp.abs(loss) / jnp.maximum(jnp.abs(term), 1e-12)) * term
        batch_stats = {**updated["batch_stats"], **{k: batch_stats[k] for k in ("param_mean", "param_std")}}
        distance = error_of(jax.lax.stop_gradient(pred), target, scored(batch_stats, model), rng)
        error = jnp.nanmean(metrics.nme(points, truth, batch["normalizer"]))
        return loss, (batch_stats, {"nme": error, "vdc": distance})

    def train_step_of(cost: Cost):
        def train_step(state: TrainState, batch: dict[str, Array], rng: Array):
            batch = prepare(batch, jax.random.fold_in(rng, 1))
            differentiate = jax.value_and_grad(loss_of, has_aux=True)
            (loss, (batch_stats, logs)), gradient = differentiate(state.params, state.batch_stats, batch, rng, cost)
            state, grad_norm = apply_gradients(optimizer, config.optim.ema, state, gradient, batch_stats)
            return state, {"loss": loss, "grad_norm": grad_norm, **logs}

        return train_step

    def predict(variables, images: Array) -> Prediction:
        pred, _ = network.apply(variables, images.astype(jnp.float32), False)
        points = points_of(pred, variables["batch_stats"])
        whole = parameters.undo_z_score(pred, scored(variables["batch_stats"], model))
        return Prediction(to_scheme[None] @ points, jnp.ones((pred.shape[0], len(to_scheme))), {"params": whole})

    if config.loss.name == "meta_joint":
        steps = lookahead.make_steps(loss_of, costs, optimizer, prepare, config)
        mesh = functools.partial(lookahead.branch_mesh, len(costs)) if config.meta.branches == "devices" else None
        if not config.meta.stream:
            return System(init, steps.round, predict, fit=fit, batches_per_step=config.meta.k + 1, mesh=mesh)
        return System(init, steps.advance, predict, fit=fit, last_of_round=(config.meta.k + 1, steps.select), mesh=mesh)
    steps = [train_step_of(cost) for cost in costs]
    phases = ()
    if len(steps) > 1:
        middle = round(config.train.num_steps * config.loss.share)
        phases = (Phase("fwpdc", middle, steps[0]), Phase("vdc", config.train.num_steps, steps[1]))
    return System(init, steps[-1], predict, phases=phases, fit=fit)


def optimizer_steps(config: Config) -> int:
    """Of the whole training: with meta-joint optimisation one batch in k + 1 is for the test."""
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
    if config.meta.k < 1:
        raise ValueError(f"meta.k must be at least 1, got {config.meta.k}.")
    if config.eval.flip_average:
        raise ValueError("eval.flip_average must be False: a mirrored face has other parameters.")

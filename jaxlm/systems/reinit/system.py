"""Progressive re-initialisation as a system, with its four training steps. Shao et al., TPAMI 2021."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxlm import geometry, losses, metrics
from jaxlm.config import Config
from jaxlm.schemes import get_scheme
from jaxlm.systems import Halves, Phase, Prediction, System, TrainState, initial_state
from jaxlm.systems.objective import make_loss
from jaxlm.systems.optim import apply_gradients, make_optimizer
from jaxlm.systems.reinit import alignment
from jaxlm.systems.reinit.network import BACKBONES, STAGES, Outputs, ProgressiveNetwork

# What each training step trains; everything else stays as it is, running statistics included.
PHASES = {
    "reinit": ("reinit",),
    "regress": ("regressor",),
    "local": ("local_reinit", "local_regressor"),
    "finetune": STAGES,
}


def build(config: Config) -> System:
    """System of `config.model`, `config.loss`, `config.phases` and `config.optim`.

    Raises:
        ValueError: for an unknown loss, model field or phase, or sides that do not fit.
    """
    model = make_model(config)
    scheme = get_scheme(config.scheme)
    elementwise = make_loss(config.loss, losses.LANDMARK_LOSSES)
    plan = phase_plan(config)
    schedule = phase_schedule(config, plan)
    fit_map = functools.partial(alignment.normalizing_map, kind=model.kind, margin=model.margin)

    def optimizer_of(stages: tuple[str, ...]) -> optax.GradientTransformation:
        return make_optimizer(config.optim, schedule, functools.partial(_trainable, stages))

    def init(rng: Array) -> TrainState:
        variables = model.init(rng, jnp.zeros((1, model.reinit_side, model.reinit_side, 3)), STAGES)
        return initial_state(variables, optimizer_of(STAGES))

    def fit(state: TrainState, labels: dict[str, np.ndarray]) -> TrainState:
        mean = jnp.asarray(alignment.mean_shape(labels["landmarks"], labels["mask"], scheme.flip))
        ema = {**state.ema, "batch_stats": {**state.ema["batch_stats"], "mean_shape": mean}}
        return state._replace(batch_stats={**state.batch_stats, "mean_shape": jnp.copy(mean)}, ema=ema)

    def shape_loss(shape: Array, target: Array, mask: Array, length: Array | None) -> Array:
        """Eqs. (5), (6) and (8): over the landmarks that exist, in units of `length` where it is given."""
        scale = 1.0 if length is None else 1.0 / length[:, None, None]
        both = jnp.broadcast_to(mask[..., None], shape.shape)
        return losses.masked_mean(elementwise(shape * scale, target * scale, both).sum(axis=-1), mask)

    def eye_distance(shape: Array, mask: Array, mean: Array) -> Array:
        """d of Eq. (5). A profile's is near zero, and one without corners has none: at least half the mean shape's."""
        corners = scheme.outer_eye_corners
        if corners is None:
            return jnp.ones(shape.shape[0])
        left, right = corners
        usual = jnp.linalg.norm(mean[left] - mean[right]) / model.margin
        distance = jnp.linalg.norm(jax.lax.stop_gradient(shape[:, left] - shape[:, right]), axis=-1)
        return jnp.where(mask[:, left] & mask[:, right], jnp.maximum(distance, 0.5 * usual), usual)

    def theta_loss(theta: Array, target: Array, mask: Array, reference: Array) -> Array:
        """Eq. (3), towards Algorithm 1's θ* of landmarks and mean shape."""
        normalizing, usable = fit_map(jax.lax.stop_gradient(target), mask, reference)
        wanted = geometry.invert_affine(normalizing) if model.direction == "sampling" else normalizing
        return losses.masked_mean(jnp.square(theta - wanted).sum(axis=(-1, -2)), usable)

    def first_loss(outputs: Outputs, target: Array, mask: Array, mean: Array) -> Array:
        if outputs.first is None:
            return theta_loss(outputs.theta, target, mask, mean)
        return shape_loss(outputs.first, target, mask, eye_distance(target, mask, mean))

    def local_loss(outputs: Outputs, target: Array, mask: Array, mean: Array) -> Array:
        total = jnp.zeros(())
        for number, (part, local) in enumerate(zip(model.parts, outputs.locals, strict=True)):
            points, exists = target[:, list(part)], mask[:, list(part)]
            # θ_l is held by its own loss; through these coordinates it would learn to zoom out.
            start, matrix = jax.lax.stop_gradient((local.initial, local.matrix))
            inside = geometry.apply_affine(geometry.invert_affine(matrix), points)
            total += shape_loss(start + local.shape - local.initial, inside, exists, None)
            if model.refine == "network":
                total += theta_loss(outputs.local_thetas[number], points, exists, mean[jnp.array(part)])
        return total

    def loss_of(params, state: TrainState, batch: dict[str, Array], phase: str):
        variables = {"params": params, "batch_stats": state.batch_stats}
        outputs: Any
        outputs, updated = model.apply(
            variables, batch["image"].astype(jnp.float32), PHASES[phase], mutable=["batch_stats"]
        )
        mask, mean = batch["mask"], state.batch_stats["mean_shape"]
        target = geometry.to_unit(batch["landmarks"], batch["image"].shape[1])
        normalized = geometry.apply_affine(geometry.invert_affine(outputs.matrix), target)  # S_g*, Eq. (4)
        loss = jnp.zeros(())
        if phase == "reinit":
            loss += first_loss(outputs, target, mask, mean)
        if phase == "regress":
            loss += shape_loss(outputs.shape, normalized, mask, eye_distance(normalized, mask, mean))
        if phase == "local":
            loss += local_loss(outputs, normalized, mask, mean)
        if phase == "finetune":
            # Measured in F_0: in the normalised states errors would shrink by zooming out, which nothing forbids now.
            length = eye_distance(target, mask, mean)
            loss += shape_loss(geometry.apply_affine(outputs.matrix, outputs.shape), target, mask, length)
            if outputs.locals:
                loss += shape_loss(outputs.landmarks, target, mask, length)
        return loss, (outputs.landmarks, updated["batch_stats"])

    def make_train_step(phase: str, begin: int):
        optimizer = optimizer_of(PHASES[phase])

        def train_step(state: TrainState, batch: dict[str, Array], rng: Array):
            del rng
            differentiate = jax.value_and_grad(loss_of, has_aux=True)
            (loss, (landmarks, batch_stats)), gradient = differentiate(state.params, state, batch, phase)
            keep = _trainable(PHASES[phase], gradient)
            gradient = jax.tree.map(lambda value, train: value if train else jnp.zeros_like(value), gradient, keep)
            state = state._replace(opt_state=_restart(optimizer, state, state.step == begin))
            state, grad_norm = apply_gradients(optimizer, config.optim.ema, state, gradient, batch_stats)
            landmarks = geometry.from_unit(landmarks, batch["image"].shape[1])
            error = metrics.nme(landmarks, batch["landmarks"], batch["normalizer"], batch["mask"])
            return state, {"loss": loss, "grad_norm": grad_norm, "nme": jnp.nanmean(error)}

        return train_step

    def apply(variables, images: Array, method=None) -> Any:
        return model.apply(variables, images.astype(jnp.float32), method=method)

    def predict(variables, images: Array) -> Prediction:
        outputs = apply(variables, images)
        landmarks = outputs.landmarks
        if config.eval.flip_average:
            mirrored = apply(variables, images[:, :, ::-1]).landmarks[:, scheme.flip]
            landmarks = (landmarks + mirrored * jnp.array([-1.0, 1.0]).reshape(1, 1, 2)) / 2
        return _prediction(landmarks, images.shape[1], {"matrix": outputs.matrix})

    def locate(variables, images: Array) -> Array:
        matrix, _, _ = apply(variables, images, ProgressiveNetwork.locate)
        return geometry.unit_to_pixels(geometry.invert_affine(matrix), images.shape[1], model.global_side)

    def regress(variables, faces: Array) -> Prediction:
        *_, landmarks = apply(variables, faces, ProgressiveNetwork.regress)
        return _prediction(landmarks, faces.shape[1], {})

    begins = [0, *(last for _, last in plan)]
    phases = tuple(
        Phase(name, last, make_train_step(name, begin)) for (name, last), begin in zip(plan, begins, strict=False)
    )
    halves = None if model.reinitialize == "none" else Halves(model.global_side, locate, regress)
    return System(init, phases[-1].train_step, predict, phases=phases, fit=fit, halves=halves)


def _restart(optimizer: optax.GradientTransformation, state: TrainState, now: Array) -> Any:
    """The optimiser's state, with its moments begun anew where `now` is true; the schedule goes on.

    The moments of what was frozen are zero, and Adam, which corrects them for how few steps there were, would not.
    """

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    fresh = optimizer.init(state.params)
    begun = jax.tree.map(lambda old, new: old if is_schedule(old) else new, state.opt_state, fresh, is_leaf=is_schedule)
    return jax.tree.map(lambda new, old: jnp.where(now, new, old), begun, state.opt_state)


def _trainable(stages: tuple[str, ...], params: Any) -> Any:
    return {name: jax.tree.map(functools.partial(_constant, name in stages), branch) for name, branch in params.items()}


def _constant(value: bool, leaf: Any) -> bool:
    del leaf
    return value


def _prediction(landmarks: Float[Array, "B K 2"], size: int, aux: dict[str, Array]) -> Prediction:
    """In pixels. A regression knows nothing of how sure it is: every score is 1."""
    return Prediction(geometry.from_unit(landmarks, size), jnp.ones(landmarks.shape[:2]), aux)


def phase_plan(config: Config) -> list[tuple[str, int]]:
    """Training steps that the model has, with the optimiser step that each ends with.

    The shares of `config.phases` are of `train.num_steps`; steps that the model does not have leave theirs to the
    others.

    Raises:
        ValueError: for a phase that does not exist, or shares that are negative or all zero.
    """
    known = ", ".join(PHASES)
    if set(config.phases) != set(PHASES):
        raise ValueError(f"config.phases must have the fields {known}; it has {', '.join(config.phases) or 'none'}.")
    shares = {name: float(config.phases[name].share) for name in PHASES}
    if min(shares.values()) < 0:
        raise ValueError(f"The shares of config.phases must not be negative, got {shares}.")
    if config.model.reinitialize == "none":
        shares["reinit"] = 0.0
    if config.model.refine == "none":
        shares["local"] = 0.0
    total, plan, done = sum(shares.values()), [], 0.0
    for name, share in shares.items():
        done += share
        last = round(config.train.num_steps * done / total) if total else 0
        if last > (plan[-1][1] if plan else 0):
            plan.append((name, last))
    if not plan:
        raise ValueError("config.phases leaves nothing to train; give one of its steps a positive share.")
    return plan


def phase_schedule(config: Config, plan: list[tuple[str, int]]) -> optax.Schedule:
    """Within each training step a polynomial decay to zero from its own learning rate."""
    starts = [0, *(last for _, last in plan[:-1])]
    rates = [
        optax.polynomial_schedule(config.phases[name].learning_rate, 0.0, config.optim.power, last - start)
        for start, (name, last) in zip(starts, plan, strict=True)
    ]
    return optax.join_schedules(rates, starts[1:])


def make_model(config: Config) -> ProgressiveNetwork:
    """The network of `config.model`.

    Raises:
        ValueError: for a field or choice that does not exist, or sides that do not fit.
    """
    known = {field.name for field in dataclasses.fields(ProgressiveNetwork)}
    known -= {"num_landmarks", "parts", "parent", "name"}
    if set(config.model) != known:
        wrong = ", ".join(sorted(set(config.model) ^ known))
        raise ValueError(f"config.model must have the fields {', '.join(sorted(known))}; wrong or missing: {wrong}.")
    choices = {
        "backbone": BACKBONES,
        "reinitialize": ("none", "shape", "network"),
        "refine": ("none", "box", "network"),
        "kind": ("affine", "similarity"),
        "direction": ("sampling", "normalizing"),
        "local_input": ("part", "face"),
    }
    for field, names in choices.items():
        if config.model[field] not in names:
            raise ValueError(f"model.{field} must be one of {', '.join(names)}, got {config.model[field]!r}.")
    if config.model.reinit_side != 128:
        raise ValueError(
            "model.reinit_side must be 128: the localization network has no padding and fits nothing else."
        )
    if config.loss.on != "landmarks":
        raise ValueError("loss.on must be landmarks: this system has no heatmaps.")
    if config.model.reinitialize == "network" and config.image_size % 128:
        raise ValueError(f"image_size must be a multiple of 128 for the localization network, got {config.image_size}.")
    if min(config.model[field] for field in ("margin", "global_side", "local_side")) <= 0:
        raise ValueError("model.margin, model.global_side and model.local_side must be positive.")
    if config.eval.flip_average and config.eval.full_picture:
        raise ValueError("eval.flip_average needs the mirrored crop: set it or eval.full_picture to False.")
    scheme = get_scheme(config.scheme)
    parts = tuple(points for name, points in scheme.parts.items() if name != "contour")
    return ProgressiveNetwork(scheme.num_landmarks, parts, **config.model.to_dict())

"""Progressive re-initialisation as a system, with its four training steps. Shao et al., TPAMI 2021."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxlm import geometry, losses, metrics
from jaxlm.schemes import Scheme, get_scheme
from jaxlm.systems import Halves, Prediction, System, TrainState, TrainStep, initial_state
from jaxlm.systems.objective import make_loss
from jaxlm.systems.optim import apply_gradients, make_optimizer
from jaxlm.systems.reinit import alignment
from jaxlm.systems.reinit.network import BACKBONES, STAGES, Outputs, ProgressiveNetwork
from jaxlm.systems.reinit.settings import Config

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
    system = ReinitSystem(
        config,
        model=make_model(config),
        scheme=get_scheme(config.scheme),
        elementwise=make_loss(config.loss, losses.LANDMARK_LOSSES),
        plan=tuple(phase_plan(config)),
    )
    first, steps = 0, []
    for name, last in system.plan:
        steps.append((name, last, functools.partial(system.train_step, name, first)))
        first = last
    return System(
        system.init,
        steps[-1][2],
        system.predict,
        schedule=functools.partial(_of_phases, steps),
        fit=system.fit,
        halves=None
        if system.model.reinitialize == "none"
        else Halves(system.model.global_side, system.locate, system.regress),
    )


def continuation(config: Config) -> tuple[str, ...]:
    """Fields that say where each training step begins and ends."""
    del config
    return ("phases", "train.num_steps")


def _of_phases(steps: Sequence[tuple[str, int, TrainStep]], number: int) -> tuple[str, TrainStep]:
    """Name and step of the phase that takes a batch; phases are (name, last batch, step)."""
    return next((name, step) for name, last, step in steps if number <= last or last == steps[-1][1])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ReinitSystem:
    """The functions of `System`, over what they share.

    Attributes:
        config: of the experiment.
        model: the network with all its stages.
        scheme: of the landmarks.
        elementwise: (pred, target, mask) -> unreduced loss.
        plan: (name, last batch) of the training steps that the model has.
    """

    config: Config
    model: ProgressiveNetwork
    scheme: Scheme
    elementwise: Callable[..., Array]
    plan: tuple[tuple[str, int], ...]

    def optimizer(self, stages: tuple[str, ...]) -> optax.GradientTransformation:
        """The optimiser that trains some stages and leaves the others as they are."""
        schedule = phase_schedule(self.config, list(self.plan))
        return make_optimizer(self.config.optim, schedule, functools.partial(_trainable, stages))

    def init(self, rng: Array) -> TrainState:
        """State before the first step."""
        side = self.model.reinit_side
        return initial_state(self.model.init(rng, jnp.zeros((1, side, side, 3)), STAGES), self.optimizer(STAGES))

    def fit(self, state: TrainState, labels: dict[str, np.ndarray]) -> TrainState:
        """The state with the training set's mean shape."""
        mean = jnp.asarray(alignment.mean_shape(labels["landmarks"], labels["mask"], self.scheme.flip))
        ema = {**state.ema, "batch_stats": {**state.ema["batch_stats"], "mean_shape": mean}}
        return state._replace(batch_stats={**state.batch_stats, "mean_shape": jnp.copy(mean)}, ema=ema)

    def shape_loss(self, shape: Array, target: Array, mask: Array, length: Array | None) -> Array:
        """Eqs. (5), (6) and (8): over the landmarks that exist, in units of `length` where it is given."""
        scale = 1.0 if length is None else 1.0 / length[:, None, None]
        both = jnp.broadcast_to(mask[..., None], shape.shape)
        return losses.masked_mean(self.elementwise(shape * scale, target * scale, both).sum(axis=-1), mask)

    def eye_distance(self, shape: Array, mask: Array, mean: Array) -> Array:
        """d of Eq. (5), at least half of the mean shape's: a profile's is near zero.

        It is the mean shape's where an eye corner is missing, and 1 for a scheme without eye corners.
        """
        corners = self.scheme.outer_eye_corners
        if corners is None:
            return jnp.ones(shape.shape[0])
        left, right = corners
        usual = jnp.linalg.norm(mean[left] - mean[right]) / self.model.margin
        distance = jnp.linalg.norm(jax.lax.stop_gradient(shape[:, left] - shape[:, right]), axis=-1)
        return jnp.where(mask[:, left] & mask[:, right], jnp.maximum(distance, 0.5 * usual), usual)

    def theta_loss(self, theta: Array, target: Array, mask: Array, reference: Array) -> Array:
        """Eq. (3), towards Algorithm 1's θ* of landmarks and mean shape."""
        kind, margin = self.model.kind, self.model.margin
        target = jax.lax.stop_gradient(target)
        normalizing, usable = alignment.normalizing_map(target, mask, reference, kind=kind, margin=margin)
        wanted = geometry.invert_affine(normalizing) if self.model.direction == "sampling" else normalizing
        return losses.masked_mean(jnp.square(theta - wanted).sum(axis=(-1, -2)), usable)

    def first_loss(self, outputs: Outputs, target: Array, mask: Array, mean: Array) -> Array:
        """Loss of the first training step: of θ or, for B2, of the first shape."""
        if outputs.first is None:
            return self.theta_loss(outputs.theta, target, mask, mean)
        return self.shape_loss(outputs.first, target, mask, self.eye_distance(target, mask, mean))

    def local_loss(self, outputs: Outputs, target: Array, mask: Array, mean: Array) -> Array:
        """Loss of the third training step: of the parts' shapes and, for G&LSR, of their θ."""
        total = jnp.zeros(())
        for number, (part, local) in enumerate(zip(self.model.parts, outputs.locals, strict=True)):
            points, exists = target[:, list(part)], mask[:, list(part)]
            # θ_l is held by its own loss; through these coordinates it would learn to zoom out.
            start, matrix = jax.lax.stop_gradient((local.initial, local.matrix))
            inside = geometry.apply_affine(geometry.invert_affine(matrix), points)
            total += self.shape_loss(start + local.shape - local.initial, inside, exists, None)
            if self.model.refine == "network":
                total += self.theta_loss(outputs.local_thetas[number], points, exists, mean[jnp.array(part)])
        return total

    def loss(self, params: Any, state: TrainState, batch: dict[str, Array], phase: str):
        """Loss of a batch in a training step; the landmarks, and the new running statistics."""
        variables = {"params": params, "batch_stats": state.batch_stats}
        outputs: Any
        images = batch["image"].astype(jnp.float32)
        outputs, updated = self.model.apply(variables, images, PHASES[phase], mutable=["batch_stats"])
        mask, mean = batch["mask"], state.batch_stats["mean_shape"]
        target = geometry.to_unit(batch["landmarks"], batch["image"].shape[1])
        normalized = geometry.apply_affine(geometry.invert_affine(outputs.matrix), target)  # S_g*, Eq. (4)
        loss = jnp.zeros(())
        if phase == "reinit":
            loss += self.first_loss(outputs, target, mask, mean)
        if phase == "regress":
            loss += self.shape_loss(outputs.shape, normalized, mask, self.eye_distance(normalized, mask, mean))
        if phase == "local":
            loss += self.local_loss(outputs, normalized, mask, mean)
        if phase == "finetune":
            # Measured in F_0: in the normalised states errors would shrink by zooming out, which nothing forbids now.
            length = self.eye_distance(target, mask, mean)
            loss += self.shape_loss(geometry.apply_affine(outputs.matrix, outputs.shape), target, mask, length)
            if outputs.locals:
                loss += self.shape_loss(outputs.landmarks, target, mask, length)
        return loss, (outputs.landmarks, updated["batch_stats"])

    def train_step(self, phase: str, begin: int, state: TrainState, batch: dict[str, Array], rng: Array):
        """One step of the optimiser in a training step that begins after batch `begin`, with fresh moments."""
        del rng
        optimizer = self.optimizer(PHASES[phase])
        differentiate = jax.value_and_grad(self.loss, has_aux=True)
        (loss, (landmarks, batch_stats)), gradient = differentiate(state.params, state, batch, phase)
        keep = _trainable(PHASES[phase], gradient)
        gradient = jax.tree.map(lambda value, train: value if train else jnp.zeros_like(value), gradient, keep)
        state = state._replace(opt_state=_restart(optimizer, state, state.step == begin))
        state, grad_norm = apply_gradients(optimizer, self.config.optim.ema, state, gradient, batch_stats)
        landmarks = geometry.from_unit(landmarks, batch["image"].shape[1])
        error = metrics.nme(landmarks, batch["landmarks"], batch["normalizer"], batch["mask"])
        return state, {"loss": loss, "grad_norm": grad_norm, "nme": jnp.nanmean(error)}

    def _apply(self, variables: Any, images: Array, method=None) -> Any:
        return self.model.apply(variables, images.astype(jnp.float32), method=method)

    def predict(self, variables: Any, images: Array) -> Prediction:
        """Landmarks of crops; `aux` has the matrix (B, 2, 3) of the global stage."""
        outputs = self._apply(variables, images)
        landmarks = outputs.landmarks
        if self.config.eval.flip_average:
            mirrored = self._apply(variables, images[:, :, ::-1]).landmarks[:, self.scheme.flip]
            landmarks = (landmarks + mirrored * jnp.array([-1.0, 1.0]).reshape(1, 1, 2)) / 2
        return _prediction(landmarks, images.shape[1], {"matrix": outputs.matrix})

    def locate(self, variables: Any, images: Array) -> Array:
        """Matrices (B, 2, 3), crop pixels → pixels of the normalised face."""
        matrix, _, _ = self._apply(variables, images, ProgressiveNetwork.locate)
        return geometry.unit_to_pixels(geometry.invert_affine(matrix), images.shape[1], self.model.global_side)

    def regress(self, variables: Any, faces: Array) -> Prediction:
        """Landmarks of normalised faces, in their pixels."""
        *_, landmarks = self._apply(variables, faces, ProgressiveNetwork.regress)
        return _prediction(landmarks, faces.shape[1], {})


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

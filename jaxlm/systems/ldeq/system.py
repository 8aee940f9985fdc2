"""The LDEQ as a system: Eq. (4) of Micaelli et al., CVPR 2023, trained on still images from z⁰ = 0."""

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxlm import heatmaps, implicit, metrics, solvers, video
from jaxlm.networks.blocks import make_dtype
from jaxlm.schemes import get_scheme
from jaxlm.systems import Prediction, System, TrainState, initial_state
from jaxlm.systems.ldeq.network import LDEQ, PRESETS, Output
from jaxlm.systems.ldeq.settings import Config, Solver
from jaxlm.systems.objective import Objective, make_objective
from jaxlm.systems.optim import apply_gradients, make_optimizer, make_schedule
from jaxlm.video import energy
from jaxlm.video.recurrence import Step
from jaxlm.video.trackers import parse_tracker

SOLVERS = {
    "fixed_point_iteration": solvers.fixed_point_iteration,
    "anderson": solvers.anderson,
    "broyden": solvers.broyden,
}
GMRES = functools.partial(solvers.gmres, tol=1e-3, max_steps=30, memory=10)
# Tolerance that samples can be sure to reach with the cell in bfloat16 (`benchmarks/equilibria.py`).
BFLOAT16_RESIDUAL = 8e-3
UNCONVERGED = ("keep", "phantom", "gmres", "stop")


def build(config: Config) -> System:
    """System of `config.model`, `config.solver`, `config.adjoint`, `config.loss` and `config.optim`.

    Raises:
        ValueError: for an unknown preset, solver, gradient, loss or type.
    """
    if config.unconverged not in UNCONVERGED:
        raise ValueError(f"unconverged is {config.unconverged!r}; choose one of {', '.join(UNCONVERGED)}.")
    if config.model.untied and not config.model.explicit:
        raise ValueError("model.untied goes with model.explicit: a fixed point has one cell.")
    for name, settings in (("solver", config.solver), ("adjoint", config.adjoint)):
        if config.model.dtype == "bfloat16" and settings.relative and 0 < settings.tol < BFLOAT16_RESIDUAL:
            warnings.warn(
                f"{name}.tol = {settings.tol:g} is near the residual of 5e-3 that the rounding of bfloat16 leaves: "
                f"many samples will not converge. Take {name}.tol={BFLOAT16_RESIDUAL:g} or model.dtype=float32.",
                stacklevel=2,
            )
    system = LdeqSystem(
        config,
        model=make_model(config),
        optimizer=make_optimizer(config.optim, make_schedule(config.optim, config.train.num_steps)),
        solver=make_solver(config.solver),
        adjoint_solver=make_solver(config.adjoint, {**SOLVERS, "gmres": solvers.gmres}),
        objective=make_objective(config),
    )
    return System(
        system.init,
        system.train_step,
        system.predict,
        track=None if config.model.explicit else system.track,
        loop_steps=config.solver.max_steps,
        check=adjoint_failure if config.unconverged == "stop" else None,
    )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LdeqSystem:
    """The functions of `System`, over what they share.

    Attributes:
        config: of the experiment.
        model: the network.
        optimizer: of the parameters.
        solver: of the fixed point.
        adjoint_solver: of the implicit gradient.
        objective: heatmaps of S stages and a batch -> loss.
    """

    config: Config
    model: LDEQ
    optimizer: optax.GradientTransformation
    solver: implicit.Solver
    adjoint_solver: implicit.Solver
    objective: Objective

    def init(self, rng: Array) -> TrainState:
        """State before the first step."""
        return initial_state(self.model.init(rng), self.optimizer)

    def forward(self, variables: Any, images: Array, probe: Any = None) -> tuple[Output, Array]:
        """The network in training: its output, and the heatmaps (S, B, h, w, K) of every stage.

        There is one stage, but for the explicit network. The gradient of `probe` is the adjoint solver's statistics.
        """
        config = self.config
        if config.model.explicit:
            return self.model.explicit(variables, images, num_steps=config.solver.max_steps, train=True)
        output = self.model(
            variables,
            images,
            solver=self.solver,
            train=True,
            adjoint_solver=self.adjoint_solver,
            gradient=config.gradient,
            phantom_steps=config.phantom.steps,
            phantom_damping=config.phantom.damping,
            fallback={"phantom": "phantom", "gmres": GMRES}.get(config.unconverged),
            adjoint_probe=probe,
        )
        return output, output.heatmaps[None]

    def loss(self, params: Any, probe: Any, state: TrainState, batch: dict[str, Array], rng: Array):
        """Loss of a batch; its logs, and the network's output."""
        images = batch["image"].astype(jnp.float32)
        variables = {"params": params, "batch_stats": state.batch_stats}
        output, stages = self.forward(variables, images, probe)
        loss = self.objective(stages, batch)
        logs = {}
        if self.config.jacobian_weight > 0:
            x, _ = self.model.inject(variables, images, train=True)
            args = (params["cell"], x)
            penalty = implicit.jacobian_regularization(self.model.cell, output.heatmaps, args, rng).mean()
            loss = loss + self.config.jacobian_weight * penalty
            logs["jacobian"] = penalty
        if output.stats is not None:
            logs["solver_steps"] = output.stats.num_steps.astype(jnp.float32)
            logs["residual"] = output.stats.residual.mean()
            logs["converged"] = output.stats.converged.mean()
        return loss, (logs, output)

    def train_step(self, state: TrainState, batch: dict[str, Array], rng: Array):
        """One step of the optimiser; the logs have the solvers' steps and residuals."""
        probe = None
        if self.config.gradient == "implicit" and not self.config.model.explicit:
            probe = implicit.adjoint_probe(self.adjoint_solver, self.model.initial_heatmaps(batch["image"]))
        differentiate = jax.value_and_grad(self.loss, argnums=(0, 1), has_aux=True)
        (loss, (logs, output)), (gradient, backward) = differentiate(state.params, probe, state, batch, rng)
        ema = self.config.optim.ema
        state, grad_norm = apply_gradients(self.optimizer, ema, state, gradient, output.batch_stats)
        error = metrics.nme(output.landmarks, batch["landmarks"], batch["normalizer"], batch["mask"])
        logs |= {"loss": loss, "grad_norm": grad_norm, "nme": jnp.nanmean(error)}
        if backward is not None:
            logs |= {"adjoint_steps": backward.num_steps, "adjoint_residual": backward.residual.mean()}
            logs["adjoint_converged"] = backward.converged.mean()
        return state, logs

    def predict_once(self, variables: Any, images: Float[Array, "B H W 3"]) -> Output:
        """The network in evaluation, without the mirrored image."""
        if self.config.model.explicit:
            return self.model.explicit(variables, images, num_steps=self.config.solver.max_steps)[0]
        return self.model.predict(variables, images, solver=self.solver)

    def predict(self, variables: Any, images: Array) -> Prediction:
        """Landmarks of crops; `aux` has the heatmaps, the residuals and the best steps."""
        images = images.astype(jnp.float32)
        output = self.predict_once(variables, images)
        landmarks, score = output.landmarks, heatmaps.confidence(output.heatmaps)
        if self.config.eval.flip_average:
            order = get_scheme(self.config.scheme).flip
            mirrored = self.predict_once(variables, images[:, :, ::-1])
            back = mirrored.landmarks[:, order] * jnp.array([[[-1.0, 1.0]]])
            back = back + jnp.array([[[images.shape[2] - 1.0, 0.0]]])
            landmarks = (landmarks + back) / 2
            score = (score + heatmaps.confidence(mirrored.heatmaps)[:, order]) / 2
        aux = {"heatmaps": output.heatmaps}
        if output.stats is not None:
            aux |= {"residual": output.stats.residual, "best_step": output.stats.best_step}
        return Prediction(landmarks, score, aux)

    def track(self, method: str, variables, image, restart, exists, past: video.Tracking | None = None):
        """Landmarks of frames (B, T, H, W, 3) by a method of `System.track`."""
        name, numbers = parse_tracker(method)
        z0 = self.model.initial_heatmaps(image[:, 0])
        settings = self.config.video
        still_solver = functools.partial(self.solver, max_steps=settings.still_steps or self.config.solver.max_steps)
        cold_step = functools.partial(self._solve, variables, still_solver)
        if name in ("frame", "early"):
            step = cold_step if name == "frame" else self._warm_step("rwr", [], variables, z0, cold_step)
            frames = jnp.moveaxis(image, 1, 0)
            landmarks, score = (
                jnp.moveaxis(leaf, 0, 1) for leaf in jax.lax.map(lambda frame: step(z0, frame)[2], frames)
            )
            return Prediction(landmarks, score, {"restarted": jnp.ones(image.shape[:2], bool)}), past
        tracked, past = video.rwr(
            self._warm_step(name, numbers, variables, z0, cold_step),
            z0,
            image,
            cold_step=cold_step,
            restart=restart,
            exists=exists,
            tracking=past,
            max_residual=settings.max_residual,
        )
        landmarks, score = tracked.output
        return Prediction(landmarks, score, {"residual": tracked.residual, "restarted": tracked.restarted}), past

    def _warm_step(self, name: str, numbers: list[float], variables, z0: Array, cold_step: Step) -> Step:
        """How a tracker, named with its settings, solves a frame that follows another."""
        settings = self.config.video
        if name == "energy":
            return functools.partial(self._descend, variables, *numbers or [settings.alpha])
        if name == "heatmap_ema":
            return functools.partial(self._average, *numbers, z0, cold_step)
        solver = make_solver(settings.solver)
        if numbers:
            solver = functools.partial(solver, max_steps=int(numbers[0]))
        return functools.partial(self._solve, variables, solver)

    def _solve(self, variables, solver: implicit.Solver, z: Array, frame: Array):
        """One frame by a solver from z: equilibrium, residual of z at this frame, (landmarks, scores)."""
        traced = functools.partial(solver, trace=True)
        output = self.model.predict(variables, frame.astype(jnp.float32), solver=traced, z0=z)
        start_residual = output.stats.trace[0]  # pyright: ignore[reportOptionalSubscript, reportOptionalMemberAccess]
        return output.heatmaps, start_residual, (output.landmarks, heatmaps.confidence(output.heatmaps))

    def _descend(self, variables, alpha: float, z: Array, frame: Array):
        """One frame by the energy of Eq. (8); returns as `_solve` does."""
        injection, _ = self.model.inject(variables, frame.astype(jnp.float32))

        def cell(z, injection):
            return self.model.cell(z, (variables["params"]["cell"], injection))

        steps = self.config.video.energy_steps
        z, stats = energy.minimize_energy(cell, z, injection, alpha=alpha, max_steps=steps)
        # z itself need not be heatmaps, it may be negative; its image under f is.
        image = cell(z, injection)
        return z, stats.start_residual, (self.model.to_landmarks(image), heatmaps.confidence(image))

    def _average(self, alpha: float, z0: Array, cold_step: Step, average: Array, frame: Array):
        """One frame by the moving average of its own heatmaps; no residual makes it start anew."""
        average = alpha * cold_step(z0, frame)[0] + (1 - alpha) * average
        return average, jnp.zeros(len(average)), (self.model.to_landmarks(average), heatmaps.confidence(average))


def adjoint_failure(logs: Mapping[str, float]) -> str | None:
    """Names the adjoint solver's failure, if it failed for any sample of a batch."""
    if logs.get("adjoint_converged", 1.0) == 1.0:
        return None
    return (
        f"the adjoint solver did not converge for {1 - logs['adjoint_converged']:.0%} of the samples (mean residual "
        f"{logs['adjoint_residual']:.2g}); raise adjoint.max_steps, choose adjoint.name=gmres, or go on with another "
        "config.unconverged"
    )


def make_model(config: Config) -> LDEQ:
    """The network of `config.model`."""
    if config.model.preset not in PRESETS:
        raise ValueError(f"There is no preset {config.model.preset!r}; choose one of {', '.join(PRESETS)}.")
    return LDEQ(
        num_landmarks=get_scheme(config.scheme).num_landmarks,
        temperature=config.model.temperature,
        dtype=make_dtype(config.model.dtype),
        untied=config.solver.max_steps if config.model.untied else 0,
        released=config.model.released,
        **PRESETS[config.model.preset],
    )


def make_solver(settings: Solver, choices: Mapping[str, implicit.Solver] = SOLVERS) -> implicit.Solver:
    """The solver of the settings, with the options that it has: `memory` is not one of plain iteration."""
    if settings.name not in choices:
        raise ValueError(f"There is no solver {settings.name!r}; choose one of {', '.join(choices)}.")
    options = {key: settings[key] for key in ("tol", "max_steps", "relative")}
    if settings.name != "fixed_point_iteration":
        options["memory"] = settings.memory
    if settings.name != "gmres":
        options["beta"] = settings.beta
    if settings.unroll:
        options["differentiable"] = True
    return functools.partial(choices[settings.name], **options)

"""The LDEQ as a system: Eq. (4) of Micaelli et al., CVPR 2023, trained on still images from z⁰ = 0."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlm import heatmaps, implicit, metrics, solvers
from jaxlm.config import Config
from jaxlm.networks.blocks import make_dtype
from jaxlm.schemes import get_scheme
from jaxlm.systems import Prediction, System, TrainState, initial_state
from jaxlm.systems.ldeq.network import LDEQ, PRESETS, Output, to_landmarks
from jaxlm.systems.objective import make_objective
from jaxlm.systems.optim import apply_gradients, make_optimizer, make_schedule
from jaxlm.video import energy, recurrence

SOLVERS = {
    "fixed_point_iteration": solvers.fixed_point_iteration,
    "anderson": solvers.anderson,
    "broyden": solvers.broyden,
}


def build(config: Config) -> System:
    """System of `config.model`, `config.solver`, `config.adjoint`, `config.loss` and `config.optim`.

    Raises:
        ValueError: for an unknown preset, solver, gradient, loss or type.
    """
    model = make_model(config)
    optimizer = make_optimizer(config.optim, make_schedule(config.optim, config.train.num_steps))
    solver, adjoint_solver = make_solver(config.solver), make_solver(config.adjoint)
    objective = make_objective(config)

    def init(rng: Array) -> TrainState:
        return initial_state(model.init(rng), optimizer)

    def forward(variables, images, probe=None) -> tuple[Output, Array]:
        """Output, and the heatmaps of every stage: one, but for the explicit network."""
        if config.model.explicit:
            return model.explicit(variables, images, num_steps=config.solver.max_steps, train=True)
        output = model(
            variables,
            images,
            solver=solver,
            train=True,
            adjoint_solver=adjoint_solver,
            gradient=config.gradient,
            phantom_steps=config.phantom.steps,
            phantom_damping=config.phantom.damping,
            adjoint_probe=probe,
        )
        return output, output.heatmaps[None]

    def loss_of(params, probe, state: TrainState, batch, rng):
        images = batch["image"].astype(jnp.float32)
        variables = {"params": params, "batch_stats": state.batch_stats}
        output, stages = forward(variables, images, probe)
        loss = objective(stages, batch)
        logs = {}
        if config.jacobian_weight > 0:
            x, _ = model.inject(variables, images, train=True)
            args = (params["cell"], x)
            penalty = implicit.jacobian_regularization(model.cell, output.heatmaps, args, rng).mean()
            loss = loss + config.jacobian_weight * penalty
            logs["jacobian"] = penalty
        if output.stats is not None:
            logs["solver_steps"] = output.stats.num_steps.astype(jnp.float32)
            logs["residual"] = output.stats.residual.mean()
        return loss, (logs, output)

    def train_step(state: TrainState, batch: dict[str, Array], rng: Array):
        probe = None
        if config.gradient == "implicit" and not config.model.explicit:
            probe = implicit.adjoint_probe(adjoint_solver, model.initial_heatmaps(batch["image"]))
        differentiate = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
        (loss, (logs, output)), (gradient, backward) = differentiate(state.params, probe, state, batch, rng)
        state, grad_norm = apply_gradients(optimizer, config.optim.ema, state, gradient, output.batch_stats)
        error = metrics.nme(output.landmarks, batch["landmarks"], batch["normalizer"], batch["mask"])
        logs |= {"loss": loss, "grad_norm": grad_norm, "nme": jnp.nanmean(error)}
        if backward is not None:
            logs |= {"adjoint_steps": backward.num_steps, "adjoint_residual": backward.residual.mean()}
        return state, logs

    def predict_once(variables, images: Float[Array, "B H W 3"]) -> Output:
        if config.model.explicit:
            return model.explicit(variables, images, num_steps=config.solver.max_steps)[0]
        return model.predict(variables, images, solver=solver)

    def predict(variables, images: Array) -> Prediction:
        images = images.astype(jnp.float32)
        output = predict_once(variables, images)
        landmarks, score = output.landmarks, heatmaps.confidence(output.heatmaps)
        if config.eval.flip_average:
            order = get_scheme(config.scheme).flip
            mirrored = predict_once(variables, images[:, :, ::-1])
            back = mirrored.landmarks[:, order] * jnp.array([[[-1.0, 1.0]]])
            back = back + jnp.array([[[images.shape[2] - 1.0, 0.0]]])
            landmarks = (landmarks + back) / 2
            score = (score + heatmaps.confidence(mirrored.heatmaps)[:, order]) / 2
        aux = {"heatmaps": output.heatmaps}
        if output.stats is not None:
            aux |= {"residual": output.stats.residual, "best_step": output.stats.best_step}
        return Prediction(landmarks, score, aux)

    def track(method, variables, image, restart, exists, past: recurrence.Tracking | None = None):
        z0 = model.initial_heatmaps(image[:, 0])

        def solve_with(chosen):
            def step(z, frame):
                traced = functools.partial(chosen, trace=True)
                output = model.predict(variables, frame.astype(jnp.float32), solver=traced, z0=z)
                start_residual = output.stats.trace[0]  # pyright: ignore[reportOptionalSubscript, reportOptionalMemberAccess]
                return output.heatmaps, start_residual, (output.landmarks, heatmaps.confidence(output.heatmaps))

            return step

        def descend(z, frame):
            x, _ = model.inject(variables, frame.astype(jnp.float32))
            z, stats = energy.minimize_energy(
                lambda z, x: model.cell(z, (variables["params"]["cell"], x)),
                z,
                x,
                alpha=config.video.alpha,
                max_steps=config.video.energy_steps,
            )
            return z, stats.start_residual, (to_landmarks(z), heatmaps.confidence(z))

        cold_step = solve_with(functools.partial(solver, max_steps=config.video.still_steps))
        warm_step = solve_with(make_solver(config.video.solver))
        if method in ("frame", "early"):
            step = cold_step if method == "frame" else warm_step
            frames = jnp.moveaxis(image, 1, 0)
            landmarks, score = (
                jnp.moveaxis(leaf, 0, 1) for leaf in jax.lax.map(lambda frame: step(z0, frame)[2], frames)
            )
            return Prediction(landmarks, score, {"restarted": jnp.ones(image.shape[:2], bool)}), past
        tracked, past = recurrence.rwr(
            {"rwr": warm_step, "energy": descend}[method],
            z0,
            image,
            cold_step=cold_step,
            restart=restart,
            exists=exists,
            tracking=past,
            max_residual=config.video.max_residual,
        )
        landmarks, score = tracked.output
        return Prediction(landmarks, score, {"residual": tracked.residual, "restarted": tracked.restarted}), past

    return System(init, train_step, predict, None if config.model.explicit else track)


def make_model(config: Config) -> LDEQ:
    """The network of `config.model`."""
    if config.model.preset not in PRESETS:
        raise ValueError(f"There is no preset {config.model.preset!r}; choose one of {', '.join(PRESETS)}.")
    return LDEQ(
        num_landmarks=get_scheme(config.scheme).num_landmarks,
        temperature=config.model.temperature,
        dtype=make_dtype(config.model.dtype),
        **PRESETS[config.model.preset],
    )


def make_solver(settings: Config) -> implicit.Solver:
    """Solver of {name, tol, max_steps, relative, beta, memory}; `memory` is for Anderson and Broyden."""
    if settings.name not in SOLVERS:
        raise ValueError(f"There is no solver {settings.name!r}; choose one of {', '.join(SOLVERS)}.")
    options = {key: settings[key] for key in ("tol", "max_steps", "relative", "beta")}
    if settings.name != "fixed_point_iteration":
        options["memory"] = settings.memory
    return functools.partial(SOLVERS[settings.name], **options)

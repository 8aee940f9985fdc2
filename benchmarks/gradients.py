"""Compares the gradients of a trained LDEQ: python -m benchmarks gradients --workdir=runs/quickstart

Takes a batch of the workdir's first evaluation set, in float32. Prints the cosine and the relative error of each
gradient against the unrolled one, over the parameters of the cell and the stem, and the spectral radius of the cell at
the equilibrium.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from benchmarks.table import Table
from jaxlm import implicit, losses
from jaxlm.data import batches, sources
from jaxlm.solvers import anderson, fixed_point_iteration
from jaxlm.systems.ldeq.system import make_model
from jaxlm.workdir import config_file
from jaxlm.workdir.restore import restore_variables


@dataclasses.dataclass(frozen=True)
class Options:
    workdir: str
    """Folder that `jaxlm train` wrote."""
    batch: int = 8
    """Number of faces."""
    steps: int = 60
    """Most solver steps, forward and adjoint."""
    tol: float = 1e-5
    """Relative tolerance of both solvers."""


def main(options: Options, table: Table) -> None:
    config: Any = config_file.load_config(options.workdir)
    model = make_model(config)
    variables, step = restore_variables(config, options.workdir)
    source = sources.open_set(config, config.eval.sets[0])
    batch = next(batches.eval_batches(source, config, options.batch))
    images, size = jnp.asarray(batch["image"], jnp.float32), config.image_size
    limits: Any = dict(tol=options.tol, max_steps=options.steps)

    def loss(params, gradient, solver):
        output = model(
            {**variables, "params": params},
            images,
            solver=lambda *args, **more: solver(*args, **limits, **more),
            gradient=gradient,
            phantom_steps=10,
            phantom_damping=0.8,
        )
        values = losses.l1(output.landmarks / size, jnp.asarray(batch["landmarks"]) / size).sum(axis=-1)
        return losses.masked_mean(values, jnp.asarray(batch["mask"])), output.stats

    def gradient_of(name, solver):
        differentiate = jax.jit(jax.grad(lambda params: loss(params, name, solver), has_aux=True))
        gradient, stats = differentiate(variables["params"])
        return ravel_pytree(gradient)[0], stats

    reference, stats = gradient_of("unrolled", fixed_point_iteration)
    x, _ = model.inject(variables, images)
    args = (variables["params"]["cell"], x)
    z, _ = fixed_point_iteration(lambda z: model.cell(z, args), model.initial_heatmaps(images), **limits)
    radius = implicit.spectral_radius(model.cell, z, args, jax.random.key(0))
    table.title(f"{options.workdir} at step {step}, {options.batch} faces, tolerance {options.tol:g}")
    table.add("forward residual, most", {"": float(stats.residual.max())})
    table.add("spectral radius", {"least": float(radius.min()), "most": float(radius.max())})
    for name, solver in (
        ("implicit", fixed_point_iteration),
        ("implicit", anderson),
        ("phantom", fixed_point_iteration),
        ("jacobian_free", fixed_point_iteration),
    ):
        found, _ = gradient_of(name, solver)
        cosine = jnp.vdot(found, reference) / jnp.linalg.norm(found) / jnp.linalg.norm(reference)
        error = jnp.linalg.norm(found - reference) / jnp.linalg.norm(reference)
        table.add(f"{name}, {solver.__name__}", {"cosine": float(cosine), "relative error": float(error)})

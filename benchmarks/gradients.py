"""Compares the gradients of a trained LDEQ: python benchmarks/gradients.py --workdir=runs/quickstart

Takes a batch of the workdir's first evaluation set, in float32. Prints the cosine and the relative error of each
gradient against the unrolled one, over the parameters of the cell and the stem, and the spectral radius of the cell at
the equilibrium.
"""

from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from jax.flatten_util import ravel_pytree

from jaxlm import implicit, losses
from jaxlm.data import batches, sources
from jaxlm.solvers import anderson, fixed_point_iteration
from jaxlm.support.program import one_sentence, quiet_logs
from jaxlm.systems.ldeq.system import make_model
from jaxlm.workdir import config_file
from jaxlm.workdir.restore import restore_variables

WORKDIR = flags.DEFINE_string("workdir", None, "Folder that train.py wrote.", required=True)
BATCH = flags.DEFINE_integer("batch", 8, "Number of faces.")
STEPS = flags.DEFINE_integer("steps", 60, "Maximum number of solver steps, forward and adjoint.")
TOL = flags.DEFINE_float("tol", 1e-5, "Relative tolerance of both solvers.")


def main(argv):
    del argv
    quiet_logs()
    with one_sentence():
        config: Any = config_file.load_config(WORKDIR.value)
        model = make_model(config)
        variables, step = restore_variables(config, WORKDIR.value)
        source = sources.open_set(config, config.eval.sets[0])
        batch = next(batches.eval_batches(source, config, BATCH.value))
        images, size = jnp.asarray(batch["image"], jnp.float32), config.image_size
        options: Any = dict(tol=TOL.value, max_steps=STEPS.value)

        def loss(params, gradient, solver):
            output = model(
                {**variables, "params": params},
                images,
                solver=lambda *args, **more: solver(*args, **options, **more),
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
        z, _ = fixed_point_iteration(lambda z: model.cell(z, args), model.initial_heatmaps(images), **options)
        radius = implicit.spectral_radius(model.cell, z, args, jax.random.key(0))
        print(f"{WORKDIR.value} at step {step}, {BATCH.value} faces, tolerance {TOL.value:g}")
        print(f"forward residual {stats.residual.max():.1e}, spectral radius {radius.min():.3f} to {radius.max():.3f}")
        print(f"{'gradient':<28}{'cosine':>10}{'relative error':>16}")
        for name, solver in (
            ("implicit", fixed_point_iteration),
            ("implicit", anderson),
            ("phantom", fixed_point_iteration),
            ("jacobian_free", fixed_point_iteration),
        ):
            found, _ = gradient_of(name, solver)
            cosine = jnp.vdot(found, reference) / jnp.linalg.norm(found) / jnp.linalg.norm(reference)
            error = jnp.linalg.norm(found - reference) / jnp.linalg.norm(reference)
            print(f"{name + ', ' + solver.__name__:<36}{cosine:>10.6f}{error:>12.2e}")


if __name__ == "__main__":
    app.run(main)

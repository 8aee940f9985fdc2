"""How well Eq. (8) of the LDEQ is minimised on rendered videos: python -m benchmarks energy --workdir=runs/quickstart

Every frame starts from the z of recurrence without recurrence (RwR, two plain steps) at the frame before. Prints the
mean and median energy of each way to a z, and the share of frames on which it is at most RwR's:

- one to three plain steps, and the equilibrium of the frame itself;
- ten steps of L-BFGS, from the z of the frame before alone and as `jaxlm.video.energy.minimize_energy` starts;
- three Gauss–Newton steps with ten steps of conjugate gradients each, for comparison.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxopt import LBFGS

from benchmarks import clips
from benchmarks.table import Table
from jaxlm import solvers
from jaxlm.video.energy import energy, minimize_energy


@dataclasses.dataclass(frozen=True)
class Options(clips.Options):
    split: str = "hard"
    """hard or easy videos."""


def main(options: Options, table: Table) -> None:
    trained = clips.load(options)
    alpha, cell = trained.config.video.alpha, trained.cell
    images = jnp.asarray(dict(clips.clips(trained, options.frames))[options.split])

    def solve(z, injection):
        return solvers.anderson(lambda z: cell(z, injection), z, tol=1e-4, max_steps=60, image=True)[0]

    @jax.jit
    def of_frame(z_prev, image):
        injection = trained.inject(image)
        one = cell(z_prev, injection)
        two = cell(one, injection)
        each = functools.partial(_each, cell, alpha, z_prev, injection)
        found = {
            "1 plain step": one,
            "2 plain steps (RwR)": two,
            "3 plain steps": cell(two, injection),
            "the frame's equilibrium": solve(z_prev, injection),
            "L-BFGS from the frame before": each(lbfgs, z_prev),
            "L-BFGS (minimize_energy)": minimize_energy(cell, z_prev, injection, alpha=alpha, max_steps=10)[0],
            "Gauss–Newton": each(gauss_newton, two),
        }
        energies = {k: energy(lambda z: cell(z, injection), z, z_prev, alpha) for k, z in found.items()}
        return two, energies

    z, rows = solve(trained.model.initial_heatmaps(images[:, 0]), trained.inject(images[:, 0])), []
    for time in range(1, images.shape[1]):
        z, energies = of_frame(z, images[:, time])
        rows.append(energies)
    table.title(
        f"{options.workdir} at step {trained.step}, {len(images)} {options.split} videos, {len(rows)} frames each, "
        f"α = {alpha}"
    )
    rwr = np.concatenate([row["2 plain steps (RwR)"] for row in rows])
    for name in rows[0]:
        values = np.concatenate([row[name] for row in rows])
        share = 100 * float(np.mean(values <= rwr + 1e-6))
        table.add(name, {"mean E": float(values.mean()), "median": float(np.median(values)), "% at most RwR's": share})


def _each(cell, alpha, z_prev, injection, minimize, start):
    """Minimises the energy of each sample by itself, from `start`."""

    def one(sample):
        start, z_prev, injection = sample

        def image(z):
            return cell(z[None], injection[None])[0]

        def objective(z):
            return energy(lambda z: image(z[0])[None], z[None], z_prev[None], alpha)[0]

        return minimize(image, objective, start, z_prev, alpha)

    return lax.map(one, (start, z_prev, injection))


def lbfgs(image, objective, start, z_prev, alpha):
    """Ten steps of L-BFGS."""
    del image, z_prev, alpha
    return LBFGS(objective, maxiter=10, tol=1e-4, history_size=10, maxls=10, implicit_diff=False).run(start)[0]


def gauss_newton(image, objective, start, z_prev, alpha):
    """Three steps δ of (GᵀG + α/2) δ = −Gᵀg − α/2 (z − z_prev), G the derivative of g = f(z) − z."""

    def step(z, _):
        g, derivative = jax.linearize(lambda z: image(z) - z, z)
        transposed = jax.linear_transpose(derivative, z)
        right = -(transposed(g)[0] + alpha / 2 * (z - z_prev))
        change, _ = jax.scipy.sparse.linalg.cg(
            lambda v: transposed(derivative(v))[0] + alpha / 2 * v, right, maxiter=10
        )
        candidates = jnp.stack([z + length * change for length in (1.0, 0.5, 0.25, 0.1, 0.0)])
        return candidates[jnp.argmin(lax.map(objective, candidates))], None

    return lax.scan(step, start, None, length=3)[0]

"""How well Eq. (8) of the LDEQ is minimised on rendered videos: python benchmarks/energy.py --workdir=runs/quickstart

Every frame starts from the z of recurrence without recurrence (RwR, two plain steps) at the frame before. Prints the
mean and median energy of each way to a z, and the share of frames on which it is at most RwR's:

- one to three plain steps, and the equilibrium of the frame itself;
- ten steps of L-BFGS, from the z of the frame before alone and as `jaxlm.video.energy.minimize_energy` starts;
- three Gauss–Newton steps with ten steps of conjugate gradients each, for comparison.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax import lax
from jaxopt import LBFGS

from jaxlm import solvers
from jaxlm.data import sources
from jaxlm.data.video_batches import crop_chunks, video_of
from jaxlm.support.program import one_sentence, quiet_logs
from jaxlm.systems.ldeq.system import make_model
from jaxlm.video.energy import energy, minimize_energy
from jaxlm.workdir import config_file
from jaxlm.workdir.restore import restore_variables

WORKDIR = flags.DEFINE_string("workdir", None, "Folder that `jaxlm train` wrote.", required=True)
CACHE = flags.DEFINE_string("cache", "", "Folder of the prepared data; the config's own without it.")
SPLIT = flags.DEFINE_string("split", "hard", "hard or easy videos.")
VIDEOS = flags.DEFINE_integer("videos", 8, "Number of videos.")
FRAMES = flags.DEFINE_integer("frames", 16, "Frames of each.")


def main(argv):
    del argv
    quiet_logs()
    with one_sentence():
        run(config_file.load_config(WORKDIR.value))


def run(config: Any) -> None:
    """Prints the table."""
    if CACHE.value:
        config.data.cache = CACHE.value
    config.data.sources.rendered_videos.num_videos = VIDEOS.value
    model, alpha = make_model(config), config.video.alpha
    variables, step = restore_variables(config, WORKDIR.value)
    (source,) = (s for s in sources.open_videos(config, "rendered_videos") if s.split == SPLIT.value)
    videos = [video_of(record) for record in source.records]
    settings: Any = dict(crop=config.video.crop, size=config.image_size, chunk=FRAMES.value, min_iou=0.0)
    images = jnp.asarray(next(crop_chunks(videos, **settings))["image"])

    def cell(z, injection):
        return model.cell(z, (variables["params"]["cell"], injection))

    def solve(z, injection):
        return solvers.anderson(lambda z: cell(z, injection), z, tol=1e-4, max_steps=60, image=True)[0]

    @jax.jit
    def of_frame(z_prev, image):
        injection, _ = model.inject(variables, image.astype(jnp.float32))
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

    first, _ = model.inject(variables, images[:, 0].astype(jnp.float32))
    z, rows = solve(model.initial_heatmaps(images[:, 0]), first), []
    for time in range(1, images.shape[1]):
        z, energies = of_frame(z, images[:, time])
        rows.append(energies)
    print(f"{WORKDIR.value} at step {step}, {len(videos)} {SPLIT.value} videos, {len(rows)} frames each, α = {alpha}")
    print(f"{'z':<32}{'mean E':>9}{'median':>9}{'at most RwR':>14}")
    rwr = np.concatenate([row["2 plain steps (RwR)"] for row in rows])
    for name in rows[0]:
        values = np.concatenate([row[name] for row in rows])
        share = 100 * np.mean(values <= rwr + 1e-6)
        print(f"{name:<32}{values.mean():>9.3f}{np.median(values):>9.3f}{share:>12.1f} %", flush=True)


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


if __name__ == "__main__":
    app.run(main)

"""How scene cuts are told from occluders and motion: python -m benchmarks cuts --workdir=runs/quickstart

Takes rendered videos. A cut is simulated by the previous frame of another video. For each split, prints quantiles of
the change of the crop (`jaxlm.support.pictures.picture_change`) and of the residual of the last equilibrium between
successive frames, and the share of cuts above the bound that 1 % of the other frames exceed.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import clips
from benchmarks.table import Table
from jaxlm import solvers
from jaxlm.support.pictures import picture_change


@dataclasses.dataclass(frozen=True)
class Options(clips.Options):
    videos: int = 24
    """Number of videos of each kind."""
    frames: int = 32
    """Frames of each."""


def main(options: Options, table: Table) -> None:
    trained = clips.load(options)

    @jax.jit
    def of_frame(z_prev, image):
        """This frame's equilibria, and the residuals of the last ones at it, in their order and exchanged."""
        injection = trained.inject(image)
        z, _ = solvers.anderson(lambda z: trained.cell(z, injection), z_prev * 0, tol=1e-3, max_steps=60, image=True)
        residuals = []
        for before in (z_prev, jnp.roll(z_prev, 1, axis=0)):
            after = trained.cell(before, injection)
            norms = [jnp.sqrt(jnp.sum(x**2, axis=(1, 2, 3))) for x in (after - before, after)]
            residuals.append(norms[0] / norms[1])
        return z, residuals

    for split, images in clips.clips(trained, options.frames):
        z, _ = of_frame(trained.model.initial_heatmaps(jnp.asarray(images[:, 0])), images[:, 0])
        found = {"change of the crop": ([], []), "residual": ([], [])}
        for time in range(1, options.frames):
            z, residuals = of_frame(z, images[:, time])
            for kept, values in zip(found["residual"], residuals, strict=True):
                kept.extend(np.asarray(values))
            for kept, shift in zip(found["change of the crop"], (0, 1), strict=True):
                before = np.roll(images[:, time - 1], shift, axis=0)
                kept.extend(picture_change(a, b) for a, b in zip(before, images[:, time], strict=True))
        table.title(f"{split}: {len(images)} videos, {options.frames} frames")
        for name, (same, cut) in found.items():
            frames = {f"of {100 * q:g} % of the frames": float(np.quantile(same, q)) for q in (0.5, 0.95, 0.99)}
            cuts = {f"of {100 * q:g} % of the cuts": float(np.quantile(cut, q)) for q in (0.01, 0.1, 0.5)}
            seen = 100 * float(np.mean(np.array(cut) > np.quantile(same, 0.99)))
            table.add(f"{split}, {name}", {**frames, **cuts, "% of the cuts seen": seen})

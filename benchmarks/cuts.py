"""How scene cuts are told from occluders and motion: python benchmarks/cuts.py --workdir=runs/quickstart

Takes rendered videos. A cut is simulated by the previous frame of another video. For each split, prints quantiles of
the change of the crop (`jaxlm.support.pictures.picture_change`) and of the residual of the last equilibrium between
successive frames, and the share of cuts above the bound that 1 % of the other frames exceed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from jaxlm import solvers
from jaxlm.data import sources
from jaxlm.data.video_batches import crop_chunks, video_of
from jaxlm.support.pictures import picture_change
from jaxlm.support.program import one_sentence, quiet_logs
from jaxlm.systems.ldeq.system import make_model
from jaxlm.workdir import config_file
from jaxlm.workdir.restore import restore_variables

WORKDIR = flags.DEFINE_string("workdir", None, "Folder that `jaxlm train` wrote.", required=True)
CACHE = flags.DEFINE_string("cache", "", "Folder of the prepared data; the config's own without it.")
SEED = flags.DEFINE_integer("seed", 1, "Of the videos.")
VIDEOS = flags.DEFINE_integer("videos", 24, "Number of videos of each kind.")
FRAMES = flags.DEFINE_integer("frames", 32, "Frames of each.")


def main(argv):
    del argv
    quiet_logs()
    with one_sentence():
        run(config_file.load_config(WORKDIR.value))


def run(config: Any) -> None:
    """Prints the table."""
    if CACHE.value:
        config.data.cache = CACHE.value
    config.data.sources.rendered_videos.update(num_videos=VIDEOS.value, seed=SEED.value)
    model = make_model(config)
    variables, _ = restore_variables(config, WORKDIR.value)

    def cell(z, injection):
        return model.cell(z, (variables["params"]["cell"], injection))

    @jax.jit
    def of_frame(z_prev, image):
        """Residuals of the last equilibria at this frame, in their order and exchanged, and this frame's own."""
        injection, _ = model.inject(variables, image.astype(jnp.float32))
        z, _ = solvers.anderson(lambda z: cell(z, injection), z_prev * 0, tol=1e-3, max_steps=60, image=True)
        residuals = []
        for before in (z_prev, jnp.roll(z_prev, 1, axis=0)):
            after = cell(before, injection)
            norms = [jnp.sqrt(jnp.sum(x**2, axis=(1, 2, 3))) for x in (after - before, after)]
            residuals.append(norms[0] / norms[1])
        return z, residuals

    for source in sources.open_videos(config, "rendered_videos"):
        videos = [video_of(record) for record in source.records]
        settings: Any = dict(crop=config.video.crop, size=config.image_size, chunk=FRAMES.value, min_iou=0.0)
        images = next(crop_chunks(videos, **settings))["image"]
        z, _ = of_frame(model.initial_heatmaps(jnp.asarray(images[:, 0])), images[:, 0])
        found = {"change of the crop": ([], []), "residual": ([], [])}
        for time in range(1, FRAMES.value):
            z, residuals = of_frame(z, images[:, time])
            for kept, values in zip(found["residual"], residuals, strict=True):
                kept.extend(np.asarray(values))
            for kept, shift in zip(found["change of the crop"], (0, 1), strict=True):
                before = np.roll(images[:, time - 1], shift, axis=0)
                kept.extend(picture_change(a, b) for a, b in zip(before, images[:, time], strict=True))
        print(f"{source.split}: {len(videos)} videos, {FRAMES.value} frames")
        columns = f"{'cuts: 1 %':>12}{'10 %':>8}{'50 %':>8}{'seen':>10}"
        print(f"{'measure':<22}{'frames: 50 %':>14}{'95 %':>8}{'99 %':>8}{columns}")
        for name, (same, cut) in found.items():
            bound = np.quantile(same, 0.99)
            values = "".join(f"{x:>8.3f}" for x in np.quantile(same, [0.95, 0.99]))
            cuts = np.quantile(cut, [0.01, 0.1, 0.5])
            shares = f"{cuts[0]:>12.3f}{cuts[1]:>8.3f}{cuts[2]:>8.3f}{100 * np.mean(np.array(cut) > bound):>8.1f} %"
            print(f"{name:<22}{np.median(same):>14.3f}{values}{shares}", flush=True)


if __name__ == "__main__":
    app.run(main)

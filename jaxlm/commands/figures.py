"""Draws figures of Wang et al., ICCV 2019: the losses, and target and answer of a heatmap network.

jaxlm figures --out=figures                                  # losses.png: Figures 4 and 5
jaxlm figures --out=figures --workdir=runs/awing_faces68     # and heatmaps.png: Figures 2 and 6
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import losses, systems
from jaxlm.config import Config
from jaxlm.data import batches, sources
from jaxlm.schemes import get_scheme
from jaxlm.support import drawing, pictures
from jaxlm.systems.objective import WEIGHT_MAPS, heatmap_target
from jaxlm.workdir import config_file
from jaxlm.workdir.restore import restore_variables


def plot_losses(path: Path) -> None:
    """Losses and their gradients over the error, and the Adaptive Wing loss's nonlinear part for several targets."""
    error = jnp.linspace(-1.0, 1.0, 2001)
    curves = {
        "MSE × 14": lambda e: 14 * losses.mse(e, jnp.zeros_like(e)),
        "L1 × 14": lambda e: 14 * losses.l1(e, jnp.zeros_like(e)),
        "Wing, ω 14, ε 1": lambda e: losses.wing(e, jnp.zeros_like(e), omega=14.0, epsilon=1.0),
        "AWing, y = 0": lambda e: losses.adaptive_wing(e, jnp.zeros_like(e)),
        "AWing, y = 1": lambda e: losses.adaptive_wing(1 + e, jnp.ones_like(e)),
    }
    with drawing.figure(path, rows=1, columns=3, size=(5, 4)) as (values, slopes, family):
        for name, loss in curves.items():
            values.plot(error, loss(error), label=name)
            slopes.plot(error, jax.grad(lambda e, loss=loss: loss(e).sum())(error), label=name)
        near = jnp.linspace(-0.5, 0.5, 1001)
        for y in (0.0, 0.25, 0.5, 0.75, 1.0):
            family.plot(near, losses.adaptive_wing(y + near, jnp.full_like(near, y)), label=f"y = {y:g}")
        values.set(title="loss (Figure 4a)", ylim=(0, 14))
        slopes.set(title="gradient (Figure 4b)")
        family.set(title="AWing below θ (Figure 5)")
        for axes in (values, slopes, family):
            axes.set_xlabel("prediction − target")
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, fontsize=8)


def heatmap_sheet(config: Config, variables: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    """A row a face: the landmarks, the target, its weight map, the answer; with a boundary channel, target and answer.

    Landmark channels are shown by their maximum, as in the paper. The weight's would cover the face in small maps, so
    its mean is shown, from 1 to the highest.
    """
    scheme = get_scheme(config.scheme)
    prediction = jax.jit(systems.build(config).predict)(variables, jnp.asarray(batch["image"]))
    answer = np.asarray(prediction.aux["heatmaps"])
    shape, boundary = (answer.shape[1], answer.shape[2]), answer.shape[-1] > scheme.num_landmarks
    arrays = {key: jnp.asarray(batch[key]) for key in ("image", "landmarks", "mask")}
    target, _ = heatmap_target(arrays, shape, scheme, config["heatmap"], boundary=boundary)
    weight = WEIGHT_MAPS[config["heatmap"].weight_map]
    weights = np.asarray(jnp.ones_like(target) if weight is None else weight(target, weight=config["heatmap"].weight))
    target, count = np.asarray(target), scheme.num_landmarks
    tiles = []
    for row in range(len(answer)):
        image = batch["image"][row]
        over = functools.partial(drawing.overlay_heatmap, image, side=256)
        truth, answered = batch["landmarks"][row], np.asarray(prediction.landmarks[row])
        drawn = drawing.draw_comparison(image, truth, answered, scheme, mask=batch["mask"][row], side=256)
        mean_weight = weights[row, ..., :count].mean(axis=-1) - 1
        panels = {
            "truth green, answer red": drawn,
            "target": over(target[row, ..., :count].max(axis=-1)),
            "mean weight": over(mean_weight / max(mean_weight.max(), 1e-6)),
            "answer": over(answer[row, ..., :count].max(axis=-1)),
        }
        if boundary:
            panels |= {"boundary target": over(target[row, ..., -1]), "boundary answer": over(answer[row, ..., -1])}
        tiles += [drawing.caption(panel, name) for name, panel in panels.items()]
    return drawing.sheet(tiles, columns=len(tiles) // len(answer))


def write_figures(out: str | Path, workdir: str | Path | None, data: str | None, count: int) -> list[Path]:
    """Writes `losses.png` and, with a workdir of a system with heatmap targets, `heatmaps.png`; returns the paths.

    Args:
        out: folder.
        workdir: trained with `config.loss.on` = "heatmaps".
        data: source[:split] of the faces; the first validation set where it is None.
        count: faces.

    Raises:
        ValueError: if the workdir was trained otherwise.
    """
    folder = Path(out).expanduser()
    plot_losses(folder / "losses.png")
    if workdir is None:
        return [folder / "losses.png"]
    config = config_file.load_config(workdir)
    if config["loss"].on != "heatmaps":
        raise ValueError(f"{workdir} was trained on landmarks (loss.on), so it has no target heatmaps to draw.")
    variables, _ = restore_variables(config, workdir)
    source = sources.open_set(config, data or config.eval.sets[0])
    batch = next(iter(batches.eval_batches(source, config, min(count, len(source)))))
    pictures.write_image(folder / "heatmaps.png", heatmap_sheet(config, variables, batch))
    return [folder / "losses.png", folder / "heatmaps.png"]


@dataclasses.dataclass(frozen=True)
class Options:
    out: str
    """Folder for the figures."""
    workdir: str | None = None
    """Folder of a training with a loss on heatmaps."""
    data: str | None = None
    """source[:split] of the config; its first evaluation set without it."""
    count: int = 3
    """Faces."""


def main(options: Options) -> list[Path]:
    """Writes the figures and returns their paths."""
    if options.count < 1:
        raise ValueError(f"--count must be at least 1, got {options.count}.")
    paths = write_figures(options.out, options.workdir, options.data, options.count)
    for path in paths:
        print(f"written: {path}")
    return paths

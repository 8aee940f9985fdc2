"""Draws which loss the meta-joint optimisation followed, Fig. 7 of Guo et al., ECCV 2020.

    jaxlm meta-choices --workdirs runs/tddfa --out=selection.png

From `metrics.jsonl` of workdirs that were trained with loss.name = meta_joint. Log every round (train.log_every =
k + 1) to see each single choice.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from jaxlm.support import drawing
from jaxlm.support.program import split_commas
from jaxlm.workdir.config_file import load_config


def choices(workdir: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps (N,), share of the rounds that followed VDC rather than fWPDC (N,), and vertex error of the winner (N,).

    Raises:
        ValueError: for a workdir without such a log.
    """
    path = workdir / "metrics.jsonl"
    if load_config(workdir).get("loss", {}).get("name") != "meta_joint" or not path.exists():
        raise ValueError(f"{workdir} was not trained with loss.name = meta_joint.")
    lines = [json.loads(line) for line in path.read_text().splitlines() if '"chosen"' in line]
    if not lines:
        raise ValueError(f"{path} has no round that is complete: train for more than meta.k + 1 steps.")
    columns = ([line[key] for line in lines] for key in ("step", "chosen", "chosen_vdc"))
    steps, chosen, error = map(np.array, columns)
    return steps, chosen, error


def plot(workdirs: list[Path], path: Path) -> dict[str, tuple[float, float]]:
    """Draws the choices of every workdir; returns the share of VDC in the first and the last third of each."""
    shares = {}
    with drawing.figure(path, columns=2, size=(5.5, 3.6)) as (left, right):
        for workdir in workdirs:
            steps, chosen, error = choices(workdir)
            k = load_config(workdir)["meta"].k
            label = f"{workdir.name}, k = {k}"
            width = max(len(chosen) // 20, 1)
            smooth = np.convolve(np.pad(chosen, width, mode="edge"), np.ones(2 * width + 1) / (2 * width + 1), "valid")
            (line,) = left.plot(steps, 100 * smooth, label=label)
            left.scatter(steps, 100 * chosen, s=5, alpha=0.35, color=line.get_color(), linewidths=0)
            right.plot(steps, np.sqrt(error), label=label)
            third = max(len(chosen) // 3, 1)
            shares[str(workdir)] = float(chosen[:third].mean()), float(chosen[-third:].mean())
        left.set(xlabel="step", ylabel="rounds that followed VDC (%)", ylim=(-4, 104))
        right.set(xlabel="step", ylabel="vertex error of the winner (pixels, RMS)", yscale="log")
        for axes in (left, right):
            axes.grid(alpha=0.3, which="both")
        left.legend(frameon=False, fontsize=8)
    return shares


@dataclasses.dataclass(frozen=True)
class Options:
    workdirs: tuple[str, ...]
    """Folders that `jaxlm train` wrote."""
    out: str = "selection.png"
    """Picture to write."""


def main(options: Options) -> None:
    """Writes the plot and prints the shares of VDC."""
    workdirs = [Path(name).expanduser() for name in split_commas(options.workdirs)]
    for name, (first, last) in plot(workdirs, Path(options.out).expanduser()).items():
        print(f"{name}: VDC chosen in {100 * first:.0f} % of the first third, {100 * last:.0f} % of the last third")
    print(f"written: {options.out}")

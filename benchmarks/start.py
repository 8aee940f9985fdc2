"""Seconds from the command to the overlay of one picture: python -m benchmarks start portrait.jpg

Runs `jaxlm predict` in processes of its own, each time first with an empty cache of compiled and traced programs, then
again. Without a picture it takes a rendered face of 400 × 400 pixels.
"""

import dataclasses
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2

from benchmarks.table import Table
from jaxlm.commands.options import Inputs
from jaxlm.data.rendered.faces import photographs
from jaxlm.support.pictures import write_image


@dataclasses.dataclass(frozen=True)
class Options:
    picture: Inputs = ()
    """A picture; a rendered face without it."""
    rounds: int = 3
    """Starts of each kind."""
    model: str = "faces68"
    """One of `jaxlm models`."""


def main(options: Options, table: Table) -> None:
    names = ("first start", "second start")
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        picture = options.picture[0] if options.picture else _rendered(Path(folder))
        for number in range(options.rounds):
            cache = Path(folder) / f"cache{number}"
            for name in names:
                figures[name].append(_seconds(picture, options.model, Path(folder) / "out", cache))
    for name, values in figures.items():
        wall, cpu = (statistics.median(part) for part in zip(*values, strict=True))
        table.add(name, {"s": wall, "s of CPU": cpu, "least": min(values)[0], "most": max(values)[0]})


def _rendered(folder: Path) -> str:
    (face,) = photographs(0, 0, 1, 280)
    write_image(folder / "portrait.png", cv2.copyMakeBorder(face["image"], 60, 60, 60, 60, cv2.BORDER_REPLICATE))
    return str(folder / "portrait.png")


def _seconds(picture: str, model: str, out: Path, cache: Path) -> tuple[float, float]:
    """Seconds by the clock, and of CPU, of one command."""
    words = [sys.executable, "-m", "jaxlm", "predict", picture, f"--model={model}", f"--out={out}"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    ran = subprocess.run(words, env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ran.returncode:
        raise ValueError(f"jaxlm predict failed: {ran.stderr.strip().splitlines()[-1]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

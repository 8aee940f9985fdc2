"""Comparison of several trained models on one data set.

Every model is evaluated on the same faces, those of the first model's config, with its own crop protocol and image
size. `jaxlm compare` writes `comparison.md`, `comparison.json` and the cumulative error distributions,
`comparison_ced.png`. The latency is the median time of a call with one crop, on the first device. Multiply-adds
(MACs) are counted for one crop, with as many solver steps as the config allows.
"""

import json
import math
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm import systems
from jaxlm.config import Config
from jaxlm.data import sources
from jaxlm.evaluation import stills
from jaxlm.networks.blocks import count_parameters
from jaxlm.networks.multiply_adds import count_macs
from jaxlm.predict.model import TrainedModel, predict_of
from jaxlm.schemes import get_scheme
from jaxlm.support import drawing, files
from jaxlm.support.files import write_atomically


class Entry(NamedTuple):
    """One model of a comparison.

    Attributes:
        name: name of the model.
        config: config of its experiment.
        result: its errors on the data set.
        parameters: number of its parameters; None for an exported graph.
        macs: multiply-adds for one crop; None for an exported graph.
        latency: milliseconds for one crop.
    """

    name: str
    config: Config
    result: stills.Result
    parameters: int | None
    macs: int | None
    latency: float

    def row(self) -> dict[str, Any]:
        """Values of the model for JSON, including those of `stills.Result.row`."""
        return {
            "model": self.name,
            "system": self.config.system,
            "image_size": self.config.image_size,
            "crop": self.config.data.crop,
            "normalizer": self.config.data.normalizer,
            "parameters": self.parameters,
            "multiply_adds": self.macs,
            "latency_ms": self.latency,
            **self.result.row(),
            "nme_mean_of_bins": self.result.mean_of_bins(),
        }


def measure(model: TrainedModel, name: str, source: sources.FaceSource, repeats: int) -> Entry:
    """Evaluates one model on a data set and measures its size and latency.

    Args:
        model: model to measure.
        name: its name for tables.
        source: faces of the data set.
        repeats: number of calls that are timed.

    Raises:
        ValueError: if the model's landmark scheme is not that of the data set.
    """
    config = model.config
    scheme = get_scheme(config.scheme)
    if scheme != source.scheme:
        raise ValueError(
            f"{name} has the scheme {scheme.name}, the data set {source.scheme.name}; choose another data set."
        )
    predict, _ = predict_of(model)
    result = stills.evaluate(predict, model.variables, source, config, halves=model.halves, show_progress=True)
    images = np.zeros((1, config.image_size, config.image_size, 3), np.float32)
    return Entry(
        name=name,
        config=config,
        result=result,
        parameters=None if model.variables is None else count_parameters(model.variables["params"]),
        macs=None if model.variables is None else _macs(config, model.variables, images),
        latency=1e3 * _latency(model, images, repeats),
    )


def _macs(config: Config, variables: Any, images: np.ndarray) -> int:
    system = systems.build(config)
    return count_macs(system.predict, variables, images, loop_steps=system.loop_steps)


def _latency(model: TrainedModel, images: np.ndarray, repeats: int) -> float:
    """Median time of a call in seconds."""
    jax.block_until_ready(model.predict(images).landmarks)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(model.predict(images).landmarks)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def markdown(entries: list[Entry], data: str) -> str:
    """Comparison as a Markdown table, the lowest NME first."""
    lines = [
        f"Data: {data}. NME, FR10 in percent; latency of one crop on {jax.devices()[0].device_kind}.",
        "",
        "| model | system | pixels | crop | normalizer | faces | NME | FR10 | AUC10 | parameters | MACs | ms |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in sorted(entries, key=lambda entry: entry.row()["nme"]):
        row = entry.row()
        lines.append(
            f"| {entry.name} | {row['system']} | {row['image_size']} | {row['crop']} | {row['normalizer']} "
            f"| {row['count']} | {row['nme']:.3f} | {row['fr10']:.2f} | {row['auc10']:.4f} "
            f"| {_large(row['parameters'])} | {_large(row['multiply_adds'])} | {row['latency_ms']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _large(number: int | None) -> str:
    if not number:
        return "–"
    power = min(int(math.log10(number)) // 3, 3)
    return f"{number / 1000**power:.3g} {' KMG'[power]}".rstrip()


def write(folder: Path, entries: list[Entry], data: str) -> None:
    """Writes the comparison as Markdown and JSON, and a plot of the cumulative error distributions."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "comparison.md", markdown(entries, data))
    content = files.without_nan({"data": data, "models": [entry.row() for entry in entries]})
    write_atomically(folder / "comparison.json", json.dumps(content, indent=2) + "\n")
    curves = {f"{entry.name} ({entry.row()['nme']:.2f} %)": entry.result.nme for entry in entries}
    drawing.plot_ced(folder / "comparison_ced.png", curves, threshold=0.1, title=data)

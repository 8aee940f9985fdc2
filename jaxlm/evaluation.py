"""Evaluation of any system on any data set: every sample once, every subset, protocol and normaliser named."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm import metrics, visualize
from jaxlm.checkpoints import write_atomically
from jaxlm.config import Config
from jaxlm.data.pipeline import CropTransform, FaceSource, eval_batches
from jaxlm.progress import progress


class Result(NamedTuple):
    """Per-sample results of one data set.

    Attributes:
        nme: (N,) as fractions; NaN where the face has no normaliser.
        landmarks: (N, K, 2) predictions in crop pixels.
        subsets: name -> (N,) membership; "all" first.
    """

    nme: np.ndarray
    landmarks: np.ndarray
    subsets: dict[str, np.ndarray]

    def nme_of(self, subset: str = "all") -> float:
        return metrics.mean(self.nme[self.subsets[subset]])

    def row(self, subset: str = "all") -> dict[str, float | int]:
        """NME and FR10 in percent, AUC10 in [0, 1], and the number of faces."""
        values = self.nme[self.subsets[subset]]
        return {
            "count": int(np.isfinite(values).sum()),
            "nme": 100 * metrics.mean(values),
            "fr10": 100 * metrics.failure_rate(values, 0.1),
            "auc10": metrics.auc(values, 0.1),
        }


def evaluate(
    predict: Callable[[Any, Any], Any],
    variables: Any,
    source: FaceSource,
    config: Config,
    *,
    limit: int = 0,
    show_progress: bool = False,
) -> Result:
    """Predicts every sample of a source (or about `limit` evenly spaced ones) and measures it.

    The batch is split over this process's devices and padded to a multiple of them.

    Raises:
        ValueError: if no sample has the points that the normaliser needs.
    """
    if limit and limit < len(source):
        records = _Every(source.records, -(-len(source) // limit))
        source = dataclasses.replace(source, records=records)
    devices = jax.local_devices()
    batch_size = -(-config.eval.batch_size // len(devices)) * len(devices)
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    variables = jax.device_put(jax.device_get(variables), jax.sharding.NamedSharding(mesh, jax.P()))
    nme = np.full(len(source), np.nan)
    landmarks = np.zeros((len(source), source.scheme.num_landmarks, 2), np.float32)
    for batch in progress(
        eval_batches(source, config, batch_size),
        total=-(-len(source) // batch_size),
        desc=source.name,
        unit="batch",
        disable=not show_progress,
    ):
        prediction = predict(variables, jax.device_put(batch["image"], sharding))
        real = batch["index"] >= 0
        where = batch["index"][real]
        landmarks[where] = np.asarray(prediction.landmarks)[real]
        errors = metrics.nme(landmarks[where], batch["landmarks"][real], batch["normalizer"][real], batch["mask"][real])
        nme[where] = np.asarray(errors)
    if np.isnan(nme).all():
        raise ValueError(
            f"No face of {source.name} has the points that the normalizer {config.data.normalizer!r} needs; "
            "choose data.normalizer = box or diagonal."
        )
    return Result(nme, landmarks, _subsets(source))


def _subsets(source: FaceSource) -> dict[str, np.ndarray]:
    subsets = {"all": np.ones(len(source), bool)}
    if source.subsets:
        flags = np.stack([source.records[i]["subsets"] for i in range(len(source))]).astype(bool)
        subsets |= {name: flags[:, i] for i, name in enumerate(source.subsets) if flags[:, i].any()}
    return subsets


class _Every:
    """Every n-th record."""

    def __init__(self, records, stride: int):
        self.records, self.stride = records, stride

    def __len__(self):
        return -(-len(self.records) // self.stride)

    def __getitem__(self, index):
        return self.records[index * self.stride]


def table(result: Result, config: Config, title: str) -> str:
    """Every subset as a line, under the crop protocol and the normaliser."""
    lines = [
        f"{title}: crop {config.data.crop}, normalizer {config.data.normalizer}, {config.image_size} pixels",
        f"{'subset':<14}{'faces':>7}{'NME %':>9}{'FR10 %':>9}{'AUC10':>9}",
    ]
    for subset in result.subsets:
        row = result.row(subset)
        lines.append(f"{subset:<14}{row['count']:>7}{row['nme']:>9.3f}{row['fr10']:>9.2f}{row['auc10']:>9.4f}")
    missing = int(np.isnan(result.nme).sum())
    if missing:
        lines.append(f"{missing} faces lack the points that the normalizer needs and are left out.")
    return "\n".join(lines)


def write_report(folder: Path, name: str, result: Result, source: FaceSource, config: Config, step: int) -> Path:
    """Writes `<name>.json`, `<name>_ced.png` and `<name>_faces.png` (best, median, worst); returns the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    visualize.plot_ced(
        folder / f"{name}_ced.png",
        {subset: result.nme[member] for subset, member in result.subsets.items()},
        threshold=0.1,
        title=f"{name}, crop {config.data.crop}, {config.data.normalizer}",
    )
    visualize.write_image(folder / f"{name}_faces.png", faces_sheet(result, source, config))
    report = {
        **result.row(),
        "data": source.name,
        "split": source.split,
        "units": {"nme": "percent", "fr10": "percent", "auc10": "fraction"},
        "crop": config.data.crop,
        "normalizer": config.data.normalizer,
        "image_size": config.image_size,
        "step": step,
        "subsets": {subset: result.row(subset) for subset in result.subsets if subset != "all"},
    }
    path = folder / f"{name}.json"
    write_atomically(path, json.dumps(visualize.without_nan(report), indent=2) + "\n")
    return path


def faces_sheet(result: Result, source: FaceSource, config: Config, count: int = 6) -> np.ndarray:
    """Rows of the best, the median and the worst faces; ground truth green, prediction red."""
    transform = CropTransform(config, None)
    order = np.argsort(result.nme)[: np.isfinite(result.nme).sum()]
    count = min(count, len(order))
    middle = (len(order) - count) // 2
    chosen = [*order[:count], *order[middle : middle + count], *order[-count:]]
    tiles = []
    for index in chosen:
        element = transform.crop_of(source.records[index])
        scale = 256 / config.image_size
        picture = visualize.draw_landmarks(
            element["image"], element["landmarks"], source.scheme, mask=element["mask"], scale=scale
        )
        picture = visualize.draw_landmarks(
            picture,
            (result.landmarks[index] + 0.5) * scale - 0.5,
            source.scheme,
            color=visualize.RED,
        )
        tiles.append(visualize.caption(picture, f"{100 * result.nme[index]:.2f} %"))
    return visualize.sheet(tiles, columns=count)

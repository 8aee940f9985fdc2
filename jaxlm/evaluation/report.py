"""Reports of an evaluation on stills: table, JSON, error curve and sheet of faces."""

import json
from pathlib import Path

import numpy as np

from jaxlm.config import Config
from jaxlm.data.batches import CropTransform
from jaxlm.data.sources import FaceSource
from jaxlm.evaluation.stills import Result
from jaxlm.schemes import get_scheme
from jaxlm.support import drawing, files
from jaxlm.support.files import write_atomically
from jaxlm.support.pictures import write_image


def table(result: Result, config: Config, title: str) -> str:
    """Text table with a line for each subset, under a title with the crop protocol and the normaliser."""
    others = "".join(f"{f'{name} (faces)':>22}" for name in result.by_normalizer)
    resampled = ", from the full picture" if config.eval.get("full_picture") else ""
    lines = [
        f"{title}: crop {config.data.crop}, normalizer {config.data.normalizer}, {config.image_size} pixels{resampled}",
        f"{'subset':<14}{'faces':>7}{'NME %':>9}{'FR8 %':>8}{'AUC8':>8}{'FR10 %':>8}{'AUC10':>8}{others}",
    ]
    for subset in result.subsets:
        row = result.row(subset)
        failures = f"{row['fr8']:>8.2f}{row['auc8']:>8.4f}{row['fr10']:>8.2f}{row['auc10']:>8.4f}"
        pairs = zip(row["nme_by_normalizer"].values(), row["count_by_normalizer"].values(), strict=True)
        others = "".join(f"{f'{value:.3f} ({count})':>22}" for value, count in pairs)
        lines.append(f"{subset:<14}{row['count']:>7}{row['nme']:>9.3f}{failures}{others}")
    if result.mean_of_bins() is not None:
        lines.append(f"{'mean of bins':<21}{result.mean_of_bins():>9.3f}")
    parts = result.parts(get_scheme(config.scheme))
    lines.append(f"{'part':<14}" + "".join(f"{name:>11}" for name in parts))
    lines.append(f"{'NME %':<14}" + "".join(f"{values['nme']:>11.3f}" for values in parts.values()))
    if config.data.normalizer == "torso":
        lines.append(f"{'PCK@0.2 %':<14}" + "".join(f"{values['pck20']:>11.1f}" for values in parts.values()))
        lines.append(f"mean PCK@0.2 {result.row()['pck20']:.2f} %")
    missing = int(np.isnan(result.nme).sum())
    if missing:
        lines.append(f"{missing} faces lack the points that the normalizer needs and are left out.")
    return "\n".join(lines)


def write_report(folder: Path, name: str, result: Result, source: FaceSource, config: Config, step: int | None) -> Path:
    """Writes `<name>.json`, `<name>.csv` (each face), `<name>_ced.png` and `<name>_faces.png` (best, median, worst).

    Returns:
        Path of the JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{index},{100 * value:.6f}" for index, value in enumerate(result.nme)]
    write_atomically(folder / f"{name}.csv", "\n".join(["face,nme", *lines]) + "\n")
    drawing.plot_ced(
        folder / f"{name}_ced.png",
        {subset: result.nme[member] for subset, member in result.subsets.items()},
        threshold=0.1,
        title=f"{name}, crop {config.data.crop}, {config.data.normalizer}",
    )
    write_image(folder / f"{name}_faces.png", faces_sheet(result, source, config))
    report = {
        **result.row(),
        "data": source.name,
        "split": source.split,
        "units": {"nme, fr8, fr10, pck20": "percent", "auc8, auc10": "fraction"},
        "crop": config.data.crop,
        "normalizer": config.data.normalizer,
        "image_size": config.image_size,
        "full_picture": bool(config.eval.get("full_picture")),
        "step": step,
        "subsets": {subset: result.row(subset) for subset in result.subsets if subset != "all"},
        "nme_mean_of_bins": result.mean_of_bins(),
        "parts": result.parts(source.scheme),
    }
    path = folder / f"{name}.json"
    write_atomically(path, json.dumps(files.without_nan(report), indent=2) + "\n")
    return path


def read_nme(report: Path) -> np.ndarray:
    """NME (N,) in percent of each face of a set, in its order, from the CSV beside a report of `write_report`."""
    return np.loadtxt(report.with_suffix(".csv"), delimiter=",", skiprows=1, usecols=1, ndmin=1)


def faces_sheet(result: Result, source: FaceSource, config: Config, count: int = 6) -> np.ndarray:
    """Sheet with rows of the best, the median and the worst faces; ground truth green, prediction red."""
    transform = CropTransform(config)
    order = np.argsort(result.nme)[: np.isfinite(result.nme).sum()]
    count = min(count, len(order))
    middle = (len(order) - count) // 2
    chosen = [*order[:count], *order[middle : middle + count], *order[-count:]]
    tiles = []
    for index in dict.fromkeys(chosen):
        element = transform.crop_of(source.records[index])
        picture = drawing.draw_comparison(
            element["image"],
            element["landmarks"],
            result.landmarks[index],
            source.scheme,
            mask=element["mask"],
            side=256,
        )
        tiles.append(drawing.caption(picture, f"{100 * result.nme[index]:.2f} %"))
    return drawing.sheet(tiles, columns=count)

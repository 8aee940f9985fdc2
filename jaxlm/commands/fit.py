"""Fits a face model to the landmarks of an experiment's training sets, and shows how well it fits.

    jaxlm fit --config=tddfa_faces68 --config.data.root=data --out=runs/fits

Training does the same where there are no fits yet, and uses these where there are. Writes `fits.json` and, for every
source, a sheet of typical and of the worst faces, annotation green and fit red.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.commands.options import FromConfig, config_of_file
from jaxlm.config import Config
from jaxlm.data import crops, sources
from jaxlm.data.augment import picture_of
from jaxlm.data.face_parameters import LabelledRecords, Labels, fit_part, labels_of
from jaxlm.face3d import fitting
from jaxlm.face3d.model_files import model_of
from jaxlm.face3d.morphable import landmark_model
from jaxlm.geometry import apply_affine, box_to_crop
from jaxlm.support import drawing, files, pictures
from jaxlm.support.files import write_atomically
from jaxlm.support.pictures import warp
from jaxlm.support.shards import ALL, Shard, parse_shard

_SPEED = 1024  # faces for the measurement


def run(config: Config, out: Path, shard: Shard = ALL) -> dict[str, Any] | None:
    """Fits all sources with a positive weight; writes `fits.json` and the sheets.

    Args:
        config: of an experiment with a morphable model.
        out: folder to write.
        shard: share of the faces to fit; the others are read from the cache, `config.data.cache`.

    Returns:
        None while shares are missing.
        Per source and over "all": number of faces, median and 90th percentile of the residuals in percent of √(w·h) of
        the landmarks' box (of those that count, and of all), how many are left out; and faces per second.

    Raises:
        ValueError: for a config, source or model that does not fit.
    """
    if "morphable" not in config:
        raise ValueError("This config has no morphable model: take one of configs/tddfa_*.py.")
    trained = {
        name: (sources.open_source(config, name, settings.train_split), sources.prepare_source(config, name))
        for name, settings in config.data.sources.items()
        if settings.weight > 0
    }
    if not trained:
        raise ValueError("No source of config.data.sources has a positive weight.")
    if shard != ALL:
        for source, builder in trained.values():
            fit_part(config, builder, source.records, source.split, shard)
        # Once more, because another share may have finished a source meanwhile; nothing is fitted again.
        if not all([fit_part(config, of, source.records, source.split, shard) for source, of in trained.values()]):
            return None
    report, labelled = {}, []
    for name, (source, builder) in trained.items():
        labels = labels_of(config, builder, source.records, source.split)
        report[name] = _summary(labels)
        labelled.append(labels)
        pictures.write_image(out / f"{name}.png", _sheet(config, source, labels))
    whole = Labels(
        *map(np.concatenate, zip(*[labels._replace(mirrored=labels.params) for labels in labelled], strict=True))
    )
    report["all"] = _summary(whole)
    report["faces_per_second"] = _speed(config, source)  # pyright: ignore[reportPossiblyUnboundVariable]
    write_atomically(out / "fits.json", json.dumps(files.without_nan(report), indent=2) + "\n")
    return report


def _summary(labels: Labels) -> dict[str, float]:
    count = len(labels.residual)
    return {
        "faces": count,
        "median": 100 * float(np.nanmedian(labels.residual)),
        "p90": 100 * float(np.nanquantile(labels.residual, 0.9)),
        "median_all_points": 100 * float(np.nanmedian(labels.residual_all)),
        "left_out": count - len(labels.usable),
    }


def _speed(config: Config, source: sources.FaceSource) -> float:
    """Faces a second, without compiling."""
    model = landmark_model(model_of(config))
    faces = [source.records[index % len(source)] for index in range(_SPEED)]
    landmarks, mask, visibility = (
        np.stack([face[key] for face in faces]) for key in ("landmarks", "mask", "visibility")
    )
    usable = mask.sum(axis=1) >= fitting.FEWEST
    given = landmarks[usable].astype(np.float64), mask[usable].astype(bool), visibility[usable]
    fitting.fit_landmarks(*given, model, contour=config["morphable"].contour)
    start = time.perf_counter()
    fitting.fit_landmarks(*given, model, contour=config["morphable"].contour)
    return float(usable.sum() / (time.perf_counter() - start))


def _sheet(config: Config, source: sources.FaceSource, labels: Labels, columns: int = 6, side: int = 240) -> np.ndarray:
    """A row of faces around the median, and one of the worst."""
    fitted = LabelledRecords(source.records, labels, model_of(config))
    order = np.argsort(labels.residual)[: np.isfinite(labels.residual).sum()]
    middle = max((len(order) - columns) // 2, 0)
    tiles = []
    for index in [*order[middle : middle + columns], *order[-columns:]]:
        record, points = source.records[int(index)], fitted.landmarks[index]
        box = crops.crop_box("tddfa_landmarks", points=points)
        transform = box_to_crop(box, side)
        given, found = (apply_affine(transform, array) for array in (record["landmarks"], points))
        picture = drawing.draw_comparison(
            warp(picture_of(record), transform, side),
            given,
            found,
            source.scheme,
            mask=record["mask"].astype(bool),
            side=side,
        )
        tiles.append(drawing.caption(picture, f"{100 * labels.residual[index]:.2f} %"))
    return drawing.sheet(tiles, columns)


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = [f"{'source':<12}{'faces':>7}{'median %':>10}{'p90 %':>8}{'all points %':>14}{'left out':>10}"]
    for name, row in report.items():
        if isinstance(row, dict):
            numbers = f"{row['median']:>10.2f}{row['p90']:>8.2f}{row['median_all_points']:>14.2f}{row['left_out']:>10}"
            lines.append(f"{name:<12}{row['faces']:>7}{numbers}")
    return "\n".join([*lines, f"{report['faces_per_second']:.0f} faces per second"])


@dataclasses.dataclass(frozen=True)
class Options:
    out: str
    """Folder to write."""
    shard: str | None = None
    """i/n: every n-th face from the i-th, on one of n machines that share data.cache; the last writes the report."""
    config: FromConfig = None
    overrides: FromConfig = ()


read_config = config_of_file


def main(options: Options) -> dict[str, Any] | None:
    """Fits and returns the report, see `run`."""
    out = Path(options.out).expanduser()
    report = run(options.config, out, parse_shard(options.shard))
    if report is None:
        return None
    print(f"\nResidual of the landmarks that count, over √(w·h) of their box:\n{table(report)}")
    print(f"written: {out}/fits.json and a sheet for each source")
    return report

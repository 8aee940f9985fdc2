"""Faces found by each detector: python -m benchmarks detectors --lfpw=… --aflw=… --detector-file=centerface.onnx

LFPW's are whole pictures, AFLW's (MERL-RAV labels) loose crops of faces in all poses, of which up to 200 are taken in
each bin of yaw. A face counts as found as in `benchmarks photographs`. Other boxes are not all false: pictures show
further faces that have no labels. The time is that of the processor, for one picture, on one thread.
"""

import csv
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks.photographs import detected, lfpw
from benchmarks.table import Table
from jaxlm.data.readers.tables import read_csv
from jaxlm.data.samples import Sample
from jaxlm.predict.detectors import make_detector
from jaxlm.predict.inputs import to_rgb
from jaxlm.support.program import split_commas
from jaxlm.support.progress import progress

_BINS = ((0, 30), (30, 60), (60, 91))
_MOST = 200


@dataclasses.dataclass(frozen=True)
class Options:
    lfpw: str | None = None
    """Folder of LFPW's pictures and points, as 300-W publishes them."""
    aflw: str | None = None
    """Folder of AFLW's crops with landmarks.csv, which has a column yaw."""
    detectors: Sequence[str] = ("haar", "centerface")
    """Names of detectors, separated by commas."""
    detector_file: str | None = None
    """ONNX file of CenterFace or YuNet."""


def main(options: Options, table: Table) -> None:
    cv2.setNumThreads(1)
    sets: dict[str, list[Sample]] = {}
    if options.lfpw:
        sets["LFPW"] = lfpw(options.lfpw, "reported")
    if options.aflw:
        file = Path(options.aflw).expanduser() / "landmarks.csv"
        samples = {Path(str(s.image)).name: s for s in read_csv(file, 68) if isinstance(s, Sample)}
        with file.open(newline="") as lines:
            reader = csv.DictReader(lines)
            if "yaw" not in (reader.fieldnames or ()):
                raise ValueError(f"{file} has no column yaw.")
            yaws = {row["image"]: abs(float(row["yaw"])) for row in reader}
        for low, high in _BINS:
            names = [name for name, yaw in yaws.items() if low <= yaw < high and name in samples]
            sets[f"AFLW {low} to {high}°"] = [samples[name] for name in names[:: max(len(names) // _MOST, 1)][:_MOST]]
    sets = {title: samples for title, samples in sets.items() if samples}
    if not sets:
        raise ValueError("Name at least one set of faces: --lfpw=FOLDER or --aflw=FOLDER.")
    for name in split_commas(options.detectors):
        detect = make_detector(name, None if name in ("haar", "whole") else options.detector_file)
        for title, samples in sets.items():
            found, others, seconds = 0, 0, 0.0
            for sample in progress(samples, desc=f"{name}, {title}", unit="picture"):
                picture = to_rgb(str(sample.image))
                start = time.process_time()
                boxes = detect(picture)
                seconds += time.process_time() - start
                hit = detected(lambda _, boxes=boxes: boxes, picture, _labelled(sample)) is not None
                found += hit
                others += len(boxes) - hit
            share = {"found %": 100 * found / len(samples), "faces": len(samples), "others": others}
            table.add(f"{name}, {title}", {**share, "ms": 1e3 * seconds / len(samples)})


def _labelled(sample: Sample) -> np.ndarray:
    """Landmarks (n, 2) that have labels."""
    return sample.landmarks[np.isfinite(sample.landmarks[:, 0])]

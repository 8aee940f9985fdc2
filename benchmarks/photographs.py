"""Landmarks on whole photographs: python -m benchmarks photographs --lfpw=/data/300W/lfpw/trainset --ytf=/data/ytf68

Faces are detected, not given: a face counts as found if the box of a detection and that of its landmarks overlap by
40 %. The inter-ocular NME is the mean over the faces found. Nothing of these pictures may have been trained on.

Where landmarks lie on the rendered head was chosen on one half: the pictures of LFPW with even numbers, and every
second person of the videos in alphabetical order. Figures are for the other half unless `--half=chosen`. With several
models, each is compared with the first one (mean difference and 95 % interval of a paired bootstrap over the faces).
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks.table import Table, Values
from jaxlm import geometry, metrics
from jaxlm.data.readers.points import read_points_folder
from jaxlm.data.readers.tables import read_csv
from jaxlm.data.samples import Sample
from jaxlm.predict.detectors import Detector, make_detector
from jaxlm.predict.inputs import to_rgb
from jaxlm.predict.model import SHIPPED
from jaxlm.predict.predictor import Predictor
from jaxlm.schemes import FACES68_OF_FACES98, get_scheme
from jaxlm.support.program import split_commas
from jaxlm.support.progress import progress

HALVES = ("reported", "chosen")
_OVERLAP = 0.4
_PARTS = {"contour": "contour", "brows": "eyebrows", "eyes": "eyes", "nose": "nose", "mouth": "mouth"}


@dataclasses.dataclass(frozen=True)
class Options:
    lfpw: str | None = None
    """Folder of LFPW's pictures and points, as 300-W publishes them."""
    ytf: str | None = None
    """Folder of frames of videos with landmarks.csv; names are PERSON_CLIPFRAME."""
    models: Sequence[str] = (SHIPPED,)
    """Models of the package, workdirs or exports, separated by commas."""
    detector: str = "haar"
    """Detector of the faces: haar, centerface or yunet."""
    detector_file: str | None = None
    """ONNX file of CenterFace or YuNet."""
    half: str = "reported"
    """Half of the faces: reported or chosen."""


def lfpw(folder: str, half: str) -> list[Sample]:
    """Faces of LFPW whose pictures have odd numbers (reported) or even ones (chosen)."""
    read = read_points_folder(Path(folder).expanduser(), 68)
    samples = [sample for sample in read if isinstance(sample, Sample)]
    return [sample for sample in samples if int(re.findall(r"\d+", sample.key)[-1]) % 2 == (half == "reported")]


def ytf(folder: str, half: str) -> list[Sample]:
    """The middle one of each clip's frames 0 to 2, of one half of the people."""
    read = read_csv(Path(folder).expanduser() / "landmarks.csv", 68)
    samples = [s for s in read if isinstance(s, Sample)]
    people = sorted({_person(sample) for sample in samples})
    mine = set(people[half == "chosen" :: 2])
    return [s for s in samples if _person(s) in mine and Path(str(s.image)).stem.endswith("1")]


def _person(sample: Sample) -> str:
    return Path(str(sample.image)).stem.rpartition("_")[0]


def detected(detect: Detector, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray | None:
    """The detection (4,) that overlaps a face most, or None if that is too little."""
    box = geometry.box_of_points(landmarks)
    best = max(detect(image), key=lambda found: geometry.box_iou(found, box), default=None)
    return None if best is None or geometry.box_iou(best, box) < _OVERLAP else best


def main(options: Options, table: Table) -> None:
    if options.half not in HALVES:
        raise ValueError(f"--half must be one of {', '.join(HALVES)}, got {options.half!r}.")
    readers = {"LFPW": (lfpw, options.lfpw), "YTF": (ytf, options.ytf)}
    sets = {name: read(folder, options.half) for name, (read, folder) in readers.items() if folder}
    if not sets:
        raise ValueError("Name at least one set of faces: --lfpw=FOLDER or --ytf=FOLDER.")
    cv2.setNumThreads(1)
    detect = make_detector(options.detector, options.detector_file)
    predictors = {name: Predictor.load(name) for name in split_commas(options.models)}
    for name, samples in sets.items():
        if not samples:
            raise ValueError(f"There is no face of {name} in the folder; its layout is described in docs/data.md.")
        pictures, boxes, truths = [], [], []
        for sample in progress(samples, desc=f"detection, {name}", unit="picture"):
            picture = to_rgb(str(sample.image))
            box = detected(detect, picture, sample.landmarks)
            if box is not None:
                pictures.append(picture)
                boxes.append(box[None])
                truths.append(sample.landmarks)
        table.title(f"{name}: {len(samples)} pictures, the face is found in {100 * len(truths) / len(samples):.1f} %")
        first = None
        if not truths:
            continue
        for model, predictor in predictors.items():
            errors = _errors(predictor, pictures, boxes, np.stack(truths))
            nme = errors.mean(axis=1)
            first = nme if first is None else first
            values: Values = {"NME %": float(nme.mean()), "FR8 %": float(100 * (nme > 8).mean())}
            groups = get_scheme("faces68").groups
            values |= {part: float(errors[:, groups[group]].mean()) for part, group in _PARTS.items()}
            if len(predictors) > 1:
                mean, low, high = metrics.paired_difference(nme[None], first[None])
                values |= {"difference": mean, "low": low, "high": high}
            table.add(f"{name}, {model}", values)


def _errors(predictor: Predictor, pictures: list[np.ndarray], boxes: list[np.ndarray], truth: np.ndarray) -> np.ndarray:
    """Errors (N, 68) in per cent of the distance between the outer corners of the eyes."""
    faces = []
    for start in progress(range(0, len(pictures), 64), desc="landmarks", unit="batch"):
        chosen = slice(start, start + 64)
        faces += [found[0] for found in predictor.many(pictures[chosen], boxes[chosen])]
    predicted = np.stack([face.landmarks for face in faces])
    if predicted.shape[1] == 98:
        predicted = predicted[:, FACES68_OF_FACES98]
    apart = np.linalg.norm(truth[:, 36] - truth[:, 45], axis=1)
    return 100 * np.linalg.norm(predicted - truth, axis=2) / apart[:, None]

"""Robustness of any system to inexact boxes, as in Tables 3 and 4 of Shao et al., TPAMI 2021.

Table 4: the crop's box is enlarged by 10 to 50 %, or moved by 5 to 25 % of the face box in a random direction, or the
picture is turned by 5° to 25°. Table 3: the face is cropped by the box around its landmarks, by the data set's own
box or by the box of OpenCV's detector. If the detector misses a face, the data set's own box is used, as in the
paper. The command is `jaxlm robustness`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxlm import geometry
from jaxlm.config import Config
from jaxlm.data import crops, sources
from jaxlm.data.augment import Perturbation, picture_of
from jaxlm.evaluation import detector_boxes, stills
from jaxlm.predict.detectors import HaarDetector
from jaxlm.predict.model import jitted_predict
from jaxlm.support.progress import progress

AMOUNTS: dict[str, tuple[float, ...]] = {
    "scale": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
    "translation": (0.0, 0.05, 0.1, 0.15, 0.2, 0.25),
    "degrees": (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
}
TITLES = {"scale": "box enlarged by", "translation": "box moved by", "degrees": "picture turned by (°)"}


class Robustness(NamedTuple):
    """NME in percent of one system.

    Attributes:
        perturbed: kind of perturbation -> NME at each of its `AMOUNTS`.
        detectors: kind of box (see `face_boxes`) -> NME; empty if the crop protocol does not depend on the box.
    """

    perturbed: dict[str, list[float]]
    detectors: dict[str, float]


def measure(variables: Any, config: Config, source: sources.FaceSource, faces: dict[str, np.ndarray]) -> Robustness:
    """Evaluates one system under every perturbation and with every kind of box.

    Args:
        variables: parameters of the system, as `System.predict` takes them.
        config: config of the workdir.
        source: faces of the data set, each with a box.
        faces: kind of box -> boxes (N, 4); see `face_boxes`.
    """
    predict, halves = jitted_predict(config)

    def error(source: sources.FaceSource, perturbation: Perturbation | None = None) -> float:
        result = stills.evaluate(predict, variables, source, config, halves=halves, perturbation=perturbation)
        return 100 * result.nme_of()

    unperturbed = error(source)
    perturbed = {}
    bar = progress(total=sum(map(len, AMOUNTS.values())) + len(faces), unit="row")
    for kind, amounts in AMOUNTS.items():
        perturbed[kind] = []
        for amount in amounts:
            perturbed[kind].append(error(source, Perturbation(**{kind: amount})) if amount else unperturbed)
            bar.update()
    detectors = {}
    for name, given in faces.items() if crops.looks_at_box(config.data.crop) else ():
        detectors[name] = error(dataclasses.replace(source, records=_WithFaces(source.records, given)))
        bar.update()
    bar.close()
    return Robustness(perturbed, detectors)


def face_boxes(source: sources.FaceSource) -> dict[str, np.ndarray]:
    """Kind of box -> boxes (N, 4): around the landmarks ("landmarks"), the data set's ("given"), detected ("haar").

    The given box stands in for a detected one that is missing.
    """
    detector = HaarDetector()
    found: dict[str, list[np.ndarray]] = {"landmarks": [], "given": [], "haar": []}
    for index in progress(range(len(source)), desc="detection", unit="face"):
        record = source.records[index]
        given = np.asarray(record["bbox"], np.float64)
        mask = np.asarray(record["mask"], bool)
        tight = geometry.box_of_points(np.asarray(record["landmarks"], np.float64), mask) if mask.any() else given
        detected = detector_boxes.nearest_box(detector(picture_of(record)), tight)
        for name, box in (("landmarks", tight), ("given", given), ("haar", given if detected is None else detected)):
            found[name].append(box)
    return {name: np.stack(values) for name, values in found.items()}


class _WithFaces(Sequence):
    """Records with a further field "face", the box from which the crop is taken."""

    def __init__(self, records, faces: np.ndarray):
        self._records, self._faces = records, faces

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        return {**self._records[index], "face": self._faces[index]}


def markdown(results: dict[str, Robustness], title: str) -> str:
    """Tables in Markdown, with a line for each system."""
    lines = [title]
    for kind, amounts in AMOUNTS.items():
        lines += ["", f"| {TITLES[kind]} | " + " | ".join(f"{amount:g}" for amount in amounts) + " |"]
        lines.append("|---" * (len(amounts) + 1) + "|")
        for name, result in results.items():
            lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in result.perturbed[kind]) + " |")
    detectors = next((result.detectors for result in results.values() if result.detectors), {})
    if detectors:
        lines += ["", "| box of | " + " | ".join(detectors) + " |", "|---" * (len(detectors) + 1) + "|"]
        for name, result in results.items():
            values = [f"{result.detectors[key]:.2f}" if result.detectors else "–" for key in detectors]
            lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)

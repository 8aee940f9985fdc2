"""How well systems bear rough boxes: Tables 3 and 4 of Shao et al., TPAMI 2021, on any system and any checkpoint.

    python -m jaxlm.robustness --workdirs=runs/b1,runs/gsr --data=300w:heldout --out=runs/robustness

Table 4: the crop's box is enlarged by 10 to 50 %, moved by 5 to 25 % of the face box in a random direction, or the
picture is turned by 5° to 25°. Table 3: the face is cropped by the box around its landmarks, by the data set's own box
and by that of OpenCV's detector (where it misses a face, by the data set's own, as in the paper).
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from jaxlm import boxes, evaluation, geometry
from jaxlm.config import Config
from jaxlm.data import crops, sources
from jaxlm.data.augment import Perturbation, picture_of
from jaxlm.data.sources import with_source
from jaxlm.detect import HaarDetector
from jaxlm.support import drawing, files
from jaxlm.support.files import write_atomically
from jaxlm.support.program import one_sentence, parse_flags, quiet_logs
from jaxlm.support.progress import progress
from jaxlm.trained import jitted_predict
from jaxlm.workdir.config_file import load_config
from jaxlm.workdir.restore import restore_variables

AMOUNTS: dict[str, tuple[float, ...]] = {
    "scale": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
    "translation": (0.0, 0.05, 0.1, 0.15, 0.2, 0.25),
    "degrees": (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
}
TITLES = {"scale": "box enlarged by", "translation": "box moved by", "degrees": "picture turned by (°)"}


class Robustness(NamedTuple):
    """NME in percent of one system.

    Attributes:
        perturbed: kind -> NME at each of `AMOUNTS`.
        detectors: whose box -> NME; empty where the crop does not look at the box.
    """

    perturbed: dict[str, list[float]]
    detectors: dict[str, float]


def measure(variables: Any, config: Config, source: sources.FaceSource, faces: dict[str, np.ndarray]) -> Robustness:
    """Evaluates one system under every perturbation and with every kind of box.

    Args:
        variables: of the checkpoint.
        config: of the workdir.
        source: faces, each with a box.
        faces: name of a detector -> its boxes (N, 4); see `face_boxes`.
    """
    predict, halves = jitted_predict(config)

    def error(source: sources.FaceSource, perturbation: Perturbation | None = None) -> float:
        result = evaluation.evaluate(predict, variables, source, config, halves=halves, perturbation=perturbation)
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
    """Boxes (N, 4) around the landmarks ("landmarks"), as given ("given") and detected ("haar")."""
    detector = HaarDetector()
    found: dict[str, list[np.ndarray]] = {"landmarks": [], "given": [], "haar": []}
    for index in progress(range(len(source)), desc="detection", unit="face"):
        record = source.records[index]
        given = np.asarray(record["bbox"], np.float64)
        mask = np.asarray(record["mask"], bool)
        tight = geometry.box_of_points(np.asarray(record["landmarks"], np.float64), mask) if mask.any() else given
        detected = boxes.nearest_box(detector(picture_of(record)), tight)
        for name, box in (("landmarks", tight), ("given", given), ("haar", given if detected is None else detected)):
            found[name].append(box)
    return {name: np.stack(values) for name, values in found.items()}


class _WithFaces(Sequence):
    """Records with another box to crop by."""

    def __init__(self, records, faces: np.ndarray):
        self._records, self._faces = records, faces

    def __len__(self):
        return len(self._records)

    def __getitem__(self, index):
        return {**self._records[index], "face": self._faces[index]}


def markdown(results: dict[str, Robustness], title: str) -> str:
    """The tables, a line per system."""
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


def run(workdirs: list[Path], data: str | None, out: Path, root: str | None = None) -> dict[str, Robustness]:
    """Measures every workdir on the same faces; writes `robustness.md`, `.json` and `.png` in `out`.

    Args:
        workdirs: of trained systems with one landmark scheme.
        data: "source" or "source:split" of the first workdir's config; its first evaluation set where it is None.
        out: folder to write.
        root: the files of that data set, `data` being a builder's name.

    Raises:
        ValueError: for a workdir, data set or scheme that does not fit.
    """
    configs = [load_config(workdir) for workdir in workdirs]
    if len({config.scheme for config in configs}) > 1:
        raise ValueError(f"The workdirs have different schemes: {', '.join(config.scheme for config in configs)}.")
    if len({workdir.name for workdir in workdirs}) < len(workdirs):
        raise ValueError("Two workdirs have the same name, which the tables go by; rename one.")
    first = configs[0]
    if root is not None:
        if data is None:
            raise ValueError("--root goes with --data naming a builder, as in --data=own --root=faces.csv.")
        first = with_source(first, data.partition(":")[0], root)
    if data is None and not first.eval.sets:
        raise ValueError(f"{workdirs[0]} has no eval.sets; choose a data set by --data.")
    source = sources.open_set(first, data or first.eval.sets[0])
    faces = face_boxes(source)
    results = {}
    for workdir, config in zip(workdirs, configs, strict=True):
        print(f"{workdir.name}: crop {config.data.crop}, {config.image_size} pixels")
        config.data.normalizer, config.seed = first.data.normalizer, first.seed  # the same perturbations for all
        variables, _ = restore_variables(config, workdir)
        results[workdir.name] = measure(variables, config, source, faces)
    title = f"NME (%), {first.data.normalizer}, {len(source)} faces of {source.name}:{source.split}"
    text = markdown(results, title)
    out.mkdir(parents=True, exist_ok=True)
    report = {"title": title, "amounts": AMOUNTS, "results": {name: r._asdict() for name, r in results.items()}}
    write_atomically(out / "robustness.md", text + "\n")
    write_atomically(out / "robustness.json", json.dumps(files.without_nan(report), indent=2) + "\n")
    curves = {kind: {name: result.perturbed[kind] for name, result in results.items()} for kind in AMOUNTS}
    drawing.plot_curves(out / "robustness.png", curves, AMOUNTS, TITLES, "NME (%)")
    print(f"\n{text}\n\nwritten: {out}/robustness.md, robustness.json, robustness.png")
    return results


def main(argv):
    del argv
    quiet_logs()
    with one_sentence():
        workdirs = [Path(name).expanduser() for name in WORKDIRS.value]
        run(workdirs, DATA.value, Path(OUT.value).expanduser(), ROOT.value)


if __name__ == "__main__":
    WORKDIRS = flags.DEFINE_list("workdirs", None, "Trained workdirs, compared on the same faces.", required=True)
    DATA = flags.DEFINE_string("data", None, "source or source:split; the first evaluation set without it.")
    ROOT = flags.DEFINE_string("root", None, "Files of the data set that --data names by its builder.")
    OUT = flags.DEFINE_string("out", None, "Folder for the tables and the plot.", required=True)
    app.run(main, flags_parser=parse_flags)

"""Files, folders and cameras that a command line names, and boxes from a CSV file."""

import csv
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlm.data.video_files import PICTURES, VIDEOS


class Inputs(NamedTuple):
    """What the command line names; every file with the name of its results, without ending."""

    pictures: list[tuple[Path, str]]
    videos: list[tuple[Path, str]]
    cameras: list[int]


def find_inputs(names: list[str], out: Path | None = None) -> Inputs:
    """Files, all files within folders but those below `out`, and cameras.

    Raises:
        ValueError: if a file does not exist or is neither a picture nor a video, or a folder holds none.
    """
    inputs, used = Inputs([], [], []), {"predictions", *(f"camera{name}" for name in names)}
    for name in names:
        path = Path(name).expanduser()
        if name.isdigit() and not path.exists():
            inputs.cameras.append(int(name))
            continue
        if not path.exists():
            raise ValueError(f"{path} does not exist.")
        files = [path]
        if path.is_dir():
            found = (file for file in path.rglob("*") if file.suffix.lower() in PICTURES + VIDEOS and file.is_file())
            own = None if out is None else out.resolve()
            files = sorted(file for file in found if own is None or own not in file.resolve().parents)
            if not files:
                raise ValueError(f"{path} holds no picture and no video ({', '.join(PICTURES + VIDEOS)}).")
        for file in files:
            kind = inputs.videos if file.suffix.lower() in VIDEOS else inputs.pictures
            if file.suffix.lower() not in PICTURES + VIDEOS:
                raise ValueError(f"{file} is neither a picture nor a video ({', '.join(PICTURES + VIDEOS)}).")
            stem = file.relative_to(path).with_suffix("").as_posix().replace("/", "_") if path.is_dir() else file.stem
            stem = next(
                s for s in itertools.chain([stem], (f"{stem}_{n}" for n in itertools.count(2))) if s not in used
            )
            used.add(stem)
            kind.append((file, stem))
    return inputs


def read_boxes_csv(path: Path) -> dict[str, np.ndarray]:
    """Boxes (N, 4) by their picture as it is written in a CSV file with the columns image, left, top, right, bottom.

    Raises:
        ValueError: naming the line that cannot be read.
    """
    columns = ("left", "top", "right", "bottom")
    boxes: dict[str, list[list[float]]] = {}
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(line[:10_000] for line in file)
        missing = [name for name in ("image", *columns) if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}, line 1: the header lacks {', '.join(missing)}.")
        for row in reader:
            try:
                boxes.setdefault(row["image"].strip(), []).append([float(row[name]) for name in columns])
            except (TypeError, ValueError):
                raise ValueError(f"{path}, line {reader.line_num}: left, top, right, bottom must be numbers.") from None
    return {name: np.array(rows) for name, rows in boxes.items()}

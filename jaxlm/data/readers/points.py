"""Reads samples from folders with a file of points for each picture: 300-W's `.pts`, or `.txt` with a count."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jaxlm.data.samples import Sample
from jaxlm.support.errors import BadSample
from jaxlm.support.files import walk
from jaxlm.support.pictures import PICTURES


def read_pts(path: Path, num_landmarks: int, columns: int = 2) -> np.ndarray:
    """Landmarks (K, columns) of a 300-W `.pts` file, converted from 1-based to 0-based pixels.

    Raises:
        BadSample: if the file is not of this form, has another number of points, or a coordinate is not a number.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    start, end = text.find("{"), text.find("}")
    if start < 0 or end < start:
        raise BadSample(f"{path} is not a .pts file: the points must be between braces.")
    rows = [line.split() for line in text[start + 1 : end].splitlines() if line.strip()]
    if len(rows) != num_landmarks:
        raise BadSample(f"{path} has {len(rows)} points where the scheme has {num_landmarks}: choose another scheme.")
    try:
        points = np.array([[float(x) for x in row] for row in rows])
    except ValueError as error:
        raise BadSample(f"{path} has a coordinate that is not a number ({error}).") from None
    if points.shape != (num_landmarks, columns) or not np.isfinite(points).all():
        words = "two finite numbers x y" if columns == 2 else f"{columns} finite numbers"
        raise BadSample(f"{path} must have {words} on each of its {num_landmarks} lines.")
    return points - 1.0


def read_counted_points(path: Path, num_landmarks: int) -> np.ndarray:
    """Landmarks (K, 2) in 0-based pixels of a `.txt` file with their number on the first line, then x y on each line.

    Raises:
        BadSample: if the file is not of this form, has another number of points, or a coordinate is not a number.
    """
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    try:
        points = np.array([[float(x) for x in line.split()] for line in lines[1:]])
    except ValueError as error:
        raise BadSample(f"{path} has a line that is not two numbers x y ({error}).") from None
    if points.shape != (num_landmarks, 2) or not np.isfinite(points).all():
        raise BadSample(
            f"{path} has {len(lines) - 1} points; expected their number, then two finite numbers x y on each of "
            f"{num_landmarks} lines: correct it or choose another scheme."
        )
    return points


def points_files(folder: Path) -> list[Path]:
    """All `.pts` files of a folder and its subfolders, or else all `.txt` files that have a picture; no hidden ones."""
    files = _files_below(folder)
    points = [path for path in files if path.suffix.lower() == ".pts"]
    if points:
        return points
    pictures = _Pictures(files)
    return [path for path in files if path.suffix.lower() == ".txt" and pictures.of(path)]


def _files_below(folder: Path) -> list[Path]:
    """Files of a folder and its subfolders, links followed; without those of names like `._a.pts`, which a Mac adds."""
    return sorted(base / name for base, _, names in walk(folder) for name in names if not name.startswith("."))


def read_points_folder(
    folder: Path, num_landmarks: int, notices: list[str] | None = None, *, missing: Sequence[float] = ()
) -> Iterator[Sample | BadSample]:
    """Samples of a folder and its subfolders: one for each of its `points_files`, with the picture of that name.

    The picture lies beside the file, or in another folder below the same one, as `images/a.jpg` for `points/a.pts`. A
    `.rct` file beside the points holds the face's box x1 y1 x2 y2. A file that cannot be used is yielded as a
    BadSample.

    Args:
        folder: that is searched.
        num_landmarks: of the scheme.
        notices: to which the number of missing landmarks is added.
        missing: landmarks both of whose coordinates are one of these numbers in the file are missing.
    """
    pictures, left_out = _Pictures(_files_below(folder)), 0
    for path in points_files(folder):
        counted = path.suffix.lower() != ".pts"
        try:
            found = pictures.of(path)
            if not found:
                raise BadSample(f"{path} has no picture beside it: expected {path.stem}.jpg, .png, … there.")
            if len(found) > 1:
                raise BadSample(
                    f"{path} could belong to {found[0]} or {found[1]}: give each picture a name of its own."
                )
            points = (read_counted_points if counted else read_pts)(path, num_landmarks)
            raw = points if counted else points + 1.0
            absent = np.isin(np.round(raw, 6), missing).all(axis=1, keepdims=True)
            left_out += int(absent.sum())
            points = np.where(absent, np.nan, points)
            key = path.relative_to(folder).with_suffix("").as_posix()
            yield Sample(found[0], points, str(path), _box_beside(path), key=key)
        except BadSample as error:
            yield error
    if left_out and notices is not None:
        numbers = " or ".join(f"{value:g}" for value in missing)
        notices.append(f"{left_out} landmarks at {numbers} are taken as missing (the source's option `missing`)")


class _Pictures:
    """The pictures among the files of a folder, by the name of a file of points."""

    def __init__(self, files: list[Path]):
        self._by_stem: dict[str, list[Path]] = {}
        self._points = {(path.with_suffix(""), path.suffix.lower()) for path in files}
        for path in files:
            if path.suffix.lower() in PICTURES:
                self._by_stem.setdefault(path.stem, []).append(path)

    def of(self, points: Path) -> list[Path]:
        """Pictures for `a.pts` or `a.png.pts`: those beside it or, if there are none, those in other folders."""
        stem = points.stem
        suffix = Path(stem).suffix.lower()
        named = self._by_stem.get(Path(stem).stem, []) if suffix in PICTURES else []
        found = [path for path in named if path.name == stem] or self._by_stem.get(stem, [])
        beside = [path for path in found if path.parent == points.parent]
        # A picture elsewhere that has points of its own is another one of the same name.
        kind = points.suffix.lower()
        return beside[:1] or [path for path in found if not {(path.with_suffix(""), kind), (path, kind)} & self._points]


def _box_beside(path: Path) -> np.ndarray | None:
    path = path.with_suffix(".rct")
    if not path.exists():
        return None
    try:
        box = np.array([float(number) for number in path.read_text(errors="replace").split()])
    except ValueError:
        box = np.zeros(0)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise BadSample(f"{path} must hold the face's box as four finite numbers x1 y1 x2 y2.")
    return box

"""Reads samples from folders with a file of points beside each picture: 300-W's `.pts`, or `.txt` with a count."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxlm.data.samples import Sample
from jaxlm.support.errors import BadSample


def read_pts(path: Path, num_landmarks: int, columns: int = 2) -> np.ndarray:
    """Landmarks (K, columns) of a 300-W `.pts` file, converted from 1-based to 0-based pixels.

    Raises:
        BadSample: if the file is not of this form, has another number of points, or a coordinate is not a number.
    """
    text = path.read_text(errors="replace")
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
    """All `.pts` files of a folder and its subfolders, or else all `.txt` files with a picture beside them."""
    return sorted(folder.rglob("*.pts")) or [path for path in sorted(folder.rglob("*.txt")) if _picture_of(path)]


def read_points_folder(folder: Path, num_landmarks: int) -> Iterator[Sample | BadSample]:
    """Samples of a folder and its subfolders: one for each of its `points_files`, with the picture beside the file.

    A `.rct` file beside them holds the face's box x1 y1 x2 y2. A file that cannot be used is yielded as a BadSample.
    """
    for path in points_files(folder):
        read = read_pts if path.suffix == ".pts" else read_counted_points
        try:
            picture = _picture_of(path)
            if picture is None:
                raise BadSample(
                    f"{path} has no picture beside it: expected {path.stem}.jpg or .png in the same folder."
                )
            key = path.relative_to(folder).with_suffix("").as_posix()
            yield Sample(picture, read(path, num_landmarks), str(path), _box_beside(path), key=key)
        except BadSample as error:
            yield error


def _picture_of(path: Path) -> Path | None:
    pictures = (path.with_suffix(suffix) for suffix in (".jpg", ".png", ".jpeg", ".bmp", ".JPG", ".PNG"))
    return next((picture for picture in pictures if picture.exists()), None)


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

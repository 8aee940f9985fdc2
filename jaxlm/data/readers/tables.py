"""Reads samples from CSV files, whatever program wrote them. Messages name the line and the column of an error."""

import contextlib
import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxlm.data.samples import Sample, picture_of_table, yaw_bin
from jaxlm.support.errors import BadSample


def read_csv(path: Path, num_landmarks: int, *, images: str = "") -> Iterator[Sample | BadSample]:
    """Samples of a CSV file with the columns `image`, `x0`, `y0` … `x{K-1}`, `y{K-1}` and a header.

    Optional columns: `visibility0` … (0 or empty visible, otherwise occluded, as in MERL-RAV), the face box as
    `left`, `top`, `right`, `bottom`, and `yaw` in degrees. Other columns are ignored, and names may be in capitals.
    Coordinates are 0-based pixels; an empty or `nan` cell marks a missing landmark. Columns are separated by commas,
    semicolons or tabs; beside the latter two, a number may have a decimal comma. The text may be UTF-8, UTF-16 or
    Windows-1252. Pictures lie beside the file, in a folder `images` beside it, or in `images`. A line that cannot be
    used is yielded as a BadSample.

    Raises:
        BadSample: if the header is missing or does not fit the scheme.
    """
    coordinates = [f"{axis}{i}" for i in range(num_landmarks) for axis in "xy"]
    lines = _lines(path)
    if not lines[0]:
        raise BadSample(f"{path} is empty: expected a header image,x0,y0,… and a line per face.")
    delimiter = max(",;\t", key=lines[0].count)
    header = [name.strip().lower() for name in _cells(lines[0], delimiter)]
    columns = {name: i for i, name in enumerate(header)}
    absent = [name for name in ["image", *coordinates] if name not in columns]
    if absent or f"x{num_landmarks}" in columns:
        found = sum(name[:1] == "x" and name[1:].isdigit() for name in columns)
        raise BadSample(
            f"{path}, line 1: the header has {found} landmarks where the scheme has {num_landmarks}"
            + (f" (missing: {', '.join(absent[:4])})" if absent else "")
            + ": choose another scheme or name the columns image,x0,y0,…"
        )
    for group in (("left", "top", "right", "bottom"), tuple(f"visibility{i}" for i in range(num_landmarks))):
        lacking = [name for name in group if name not in columns]
        if lacking and len(lacking) < len(group):
            raise BadSample(f"{path}, line 1: the header has {group[0]}… but lacks {', '.join(lacking[:4])}.")
    for line, text in _rows(lines, delimiter, len(header)):
        if not text.strip(f"{delimiter} \t\x00"):
            continue
        where = f"{path}, line {line}"
        try:
            row = _cells(text, delimiter)
        except csv.Error as error:
            yield BadSample(f"{where} cannot be read ({error}).")
            continue
        if len(row) != len(header):
            quote = ", because of a stray quote" if text.count('"') % 2 else ""
            yield BadSample(f"{where} has {len(row)} columns where the header has {len(header)}{quote}; correct it.")
            continue
        if delimiter != ",":
            row = [cell if i == columns["image"] else cell.replace(",", ".") for i, cell in enumerate(row)]
        try:
            yield _csv_sample(path, row, columns, num_landmarks, where, images)
        except BadSample as error:
            yield error


def _rows(lines: list[str], delimiter: str, columns: int) -> Iterator[tuple[int, str]]:
    """Number of the first line and text of each row below the header.

    A stray quote spoils one row and not all that follow: lines are joined only where that makes a whole row.
    """
    line = 1
    while line < len(lines):
        last = line
        if lines[line].count('"') % 2:  # a cell with line breaks, or a stray quote
            closing = [n for n in range(line + 1, min(line + 20, len(lines))) if lines[n].count('"') % 2]
            whole = "\n".join(lines[line : closing[0] + 1]) if closing else ""
            with contextlib.suppress(csv.Error):  # where something follows the closing quote
                if len(next(csv.reader([whole], delimiter=delimiter, strict=True), [])) == columns:
                    last = closing[0]
        yield line + 1, "\n".join(lines[line : last + 1])
        line = last + 1


def _text(path: Path) -> str:
    content = path.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _lines(path: Path) -> list[str]:
    """The lines without those that are empty at the end; `str.splitlines` also splits at rarer characters."""
    return re.split(r"\r\n|\r|\n", _text(path).rstrip("\r\n"))


def picture_names(path: Path) -> list[str]:
    """Names in the column `image` of a CSV file, whose other columns are not looked at."""
    lines, names = _lines(path), []
    delimiter = max(",;\t", key=lines[0].count)
    header = [name.strip().lower() for name in lines[0].split(delimiter)]
    place = header.index("image") if "image" in header else 0
    for line in lines[1:]:
        cells = line.split(delimiter, place + 1)
        names += [cells[place].strip().strip('"')] if len(cells) > place else []
    return names


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _csv_sample(
    path: Path, row: list[str], columns: dict[str, int], num_landmarks: int, where: str, images: str
) -> Sample:
    def number(name: str, optional: bool) -> float:
        cell = row[columns[name]].strip()
        if optional and cell.lower() in ("", "nan"):
            return np.nan
        try:
            value = float(cell)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise BadSample(
                f"{where}, column {name}: {cell!r} is not a finite number; leave the cells of a missing landmark empty."
            )
        return value

    points = np.array([[number(f"{axis}{i}", True) for axis in "xy"] for i in range(num_landmarks)])
    points[np.isnan(points).any(axis=1)] = np.nan
    visibility = None
    if "visibility0" in columns:
        codes = [row[columns[f"visibility{i}"]].strip() for i in range(num_landmarks)]
        visibility = np.array([code in ("", "0", "0.0") for code in codes], np.float32)
    bbox = None
    if "left" in columns:
        bbox = np.array([number(side, False) for side in ("left", "top", "right", "bottom")])
    name = row[columns["image"]].strip()
    subsets = (yaw_bin(number("yaw", False)),) if "yaw" in columns else ()
    return Sample(picture_of_table(path, name, images), points, where, bbox, visibility, subsets, name)

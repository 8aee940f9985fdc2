"""Reads samples from tables: CSV files and COCO-keypoints JSON. Messages name the line or field of an error."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxlm.data.samples import Sample, picture_of_table, yaw_bin
from jaxlm.support.errors import BadSample


def read_csv(path: Path, num_landmarks: int) -> Iterator[Sample | BadSample]:
    """Samples of a CSV file with the columns `image`, `x0`, `y0` … `x{K-1}`, `y{K-1}` and a header.

    Optional columns: `visibility0` … (0 or empty visible, otherwise occluded, as in MERL-RAV), the face box as
    `left`, `top`, `right`, `bottom`, and `yaw` in degrees. Other columns are ignored. Coordinates are 0-based pixels;
    an empty or `nan` cell marks a missing landmark. Pictures lie beside the file or in a folder `images` beside it.
    A line that cannot be used is yielded as a BadSample.

    Raises:
        BadSample: if the header is missing or does not fit the scheme.
    """
    coordinates = [f"{axis}{i}" for i in range(num_landmarks) for axis in "xy"]
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(file)
        header = next(reader, None)
        if header is None:
            raise BadSample(f"{path} is empty: expected a header image,x0,y0,… and a line per face.")
        columns = {name.strip(): i for i, name in enumerate(header)}
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
        for line, row in enumerate(reader, start=2):
            if not row:
                continue
            where = f"{path}, line {line}"
            if len(row) != len(header):
                yield BadSample(f"{where} has {len(row)} columns where the header has {len(header)}.")
                continue
            try:
                yield _csv_sample(path, row, columns, num_landmarks, where)
            except BadSample as error:
                yield error


def _csv_sample(path: Path, row: list[str], columns: dict[str, int], num_landmarks: int, where: str) -> Sample:
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
    return Sample(picture_of_table(path, name), points, where, bbox, visibility, subsets, name)


def read_coco(path: Path, num_landmarks: int) -> Iterator[Sample | BadSample]:
    """Samples of a COCO-keypoints JSON: `images`, `annotations` with `keypoints` (x, y, v) × K and `bbox` x y w h.

    `bbox` is optional. v = 0 with x = y = 0 marks a missing landmark, v = 1 an occluded one. Coordinates are 0-based
    pixels. Pictures lie beside the file or in a folder `images` beside it. An annotation that cannot be used is yielded
    as a BadSample.

    Raises:
        BadSample: if the file is not COCO-keypoints JSON.
    """
    try:
        content = json.loads(path.read_text())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        annotations = content["annotations"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise BadSample(f"{path} is not COCO-keypoints JSON ({type(error).__name__}: {error}).") from None
    for position, annotation in enumerate(annotations):
        where = f"{path}, annotations[{position}]"
        numbers = annotation.get("keypoints", [])
        if len(numbers) != 3 * num_landmarks:
            yield BadSample(
                f"{where} has {len(numbers)} numbers in keypoints where the scheme needs 3 × {num_landmarks}."
            )
            continue
        try:
            keypoints = np.asarray(numbers, np.float64).reshape(num_landmarks, 3)
            box = [float(number) for number in annotation.get("bbox") or ()]
        except (TypeError, ValueError):
            keypoints, box = np.full((num_landmarks, 3), np.nan), []
        if len(box) not in (0, 4):
            yield BadSample(f"{where}: bbox has {len(box)} numbers; expected x, y, width, height.")
            continue
        if annotation.get("image_id") not in names or not np.isfinite(keypoints).all():
            yield BadSample(f"{where}: image_id must be the id of one of images and keypoints must be finite numbers.")
            continue
        missing = (keypoints[:, 2] == 0) & (keypoints[:, :2] == 0).all(axis=1)
        points = np.where(missing[:, None], np.nan, keypoints[:, :2])
        bbox = None
        if box:
            x, y, width, height = box
            bbox = np.array([x, y, x + width, y + height])
        name = names[annotation["image_id"]]
        visibility = (keypoints[:, 2] != 1).astype(np.float32)
        yield Sample(picture_of_table(path, name), points, where, bbox, visibility, key=f"{name}#{position}")

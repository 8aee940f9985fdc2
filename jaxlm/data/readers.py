"""Annotation files as published, read into samples. Every mistake in a file is named with its line or field."""

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxlm.data.yaw import yaw_bin
from jaxlm.support.errors import BadSample
from jaxlm.support.pictures import decode_image


@dataclasses.dataclass
class Sample:
    """One annotated face.

    Attributes:
        image: path of the picture, read as published, or its encoded bytes.
        landmarks: (K, 2) float, 0-based pixels; NaN where the landmark is missing.
        where: file and line of the annotation, for messages.
        bbox: (4,) x1 y1 x2 y2, or None: the box around the landmarks.
        visibility: (K,), 1 visible, 0 occluded; None means all visible.
        subsets: names of the evaluation subsets that it belongs to.
        key: identifies the sample within its data set.
        params: (P,) parameters of a morphable model in the picture's frame (`jaxlm.face3d.parameters`).
    """

    image: Path | bytes
    landmarks: np.ndarray
    where: str
    bbox: np.ndarray | None = None
    visibility: np.ndarray | None = None
    subsets: tuple[str, ...] = ()
    key: str = ""
    params: np.ndarray | None = None


def read_pts(path: Path, num_landmarks: int, columns: int = 2) -> np.ndarray:
    """Landmarks (K, columns) of a 300-W `.pts` file, turned from 1-based to 0-based pixels.

    Raises:
        BadSample: for a file that is not of this form, a wrong number of points, or a coordinate that is no number.
    """
    text = path.read_text(errors="replace")
    start, end = text.find("{"), text.find("}")
    if start < 0 or end < start:
        raise BadSample(f"{path} is not a .pts file: the points must stand between braces.")
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
    """Landmarks (K, 2) of a `.txt` file that begins with their number and has x y on every line, 0-based pixels.

    Raises:
        BadSample: for a file that is not of this form, a wrong number of points, or a coordinate that is no number.
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
    """The `.pts` files of a folder, searched to any depth; without any, the `.txt` files with a picture beside them."""
    return sorted(folder.rglob("*.pts")) or [path for path in sorted(folder.rglob("*.txt")) if _picture_of(path)]


def read_points_folder(folder: Path, num_landmarks: int) -> Iterator[Sample | BadSample]:
    """Samples of a folder, searched to any depth, that holds a picture beside each file of `points_files`.

    A `.rct` file beside them, x1 y1 x2 y2, is the face's box.
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


def read_csv(path: Path, num_landmarks: int) -> Iterator[Sample | BadSample]:
    """Samples of a CSV file with a header: `image`, `x0`, `y0` … `x{K-1}`, `y{K-1}`.

    Optional columns: `visibility0` … (0 visible, otherwise occluded, as MERL-RAV counts), the face box as
    `left`, `top`, `right`, `bottom`, and `yaw` in degrees. Others are ignored. Coordinates are 0-based pixels; an empty
    or `nan` cell is a missing landmark. Pictures are looked for beside the file and in a folder `images` beside it.
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
    image = path.parent / name
    if not image.exists() and (path.parent / "images" / name).exists():
        image = path.parent / "images" / name
    subsets = (yaw_bin(number("yaw", False)),) if "yaw" in columns else ()
    return Sample(image, points, where, bbox, visibility, subsets, name)


def read_coco(path: Path, num_landmarks: int) -> Iterator[Sample | BadSample]:
    """Samples of a COCO-keypoints JSON: `images`, `annotations` with `keypoints` (x, y, v) × K and `bbox` x y w h.

    v = 0 with x = y = 0 is a missing landmark, v = 1 an occluded one. Coordinates are 0-based pixels. `file_name` is
    looked for beside the file and in a folder `images` beside it.
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
            yield BadSample(f"{where}: image_id must be one of images and keypoints must be finite numbers.")
            continue
        missing = (keypoints[:, 2] == 0) & (keypoints[:, :2] == 0).all(axis=1)
        points = np.where(missing[:, None], np.nan, keypoints[:, :2])
        bbox = None
        if box:
            x, y, width, height = box
            bbox = np.array([x, y, x + width, y + height])
        name = names[annotation["image_id"]]
        image = path.parent / name
        if not image.exists() and (path.parent / "images" / name).exists():
            image = path.parent / "images" / name
        visibility = (keypoints[:, 2] != 1).astype(np.float32)
        yield Sample(image, points, where, bbox, visibility, key=f"{name}#{position}")


WFLW_SUBSETS = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")


def read_wflw(annotations: Path, images: Path) -> Iterator[Sample | BadSample]:
    """Samples of a WFLW list: 196 coordinates, the box, six attribute flags, the picture."""
    with annotations.open() as file:
        for line, text in enumerate(file, start=1):
            row = text.split(maxsplit=206)
            where = f"{annotations}, line {line}"
            if not row:
                continue
            if len(row) != 207:
                yield BadSample(f"{where} has {len(row)} columns where WFLW's lists have 207.")
                continue
            try:
                numbers = np.array([float(cell) for cell in row[:206]])
            except ValueError as error:
                yield BadSample(f"{where} has a column that is not a number ({error}).")
                continue
            if not np.isfinite(numbers).all():
                yield BadSample(f"{where} has a number that is not finite; correct it or leave the line out.")
                continue
            subsets = tuple(n for n, flag in zip(WFLW_SUBSETS, numbers[200:], strict=True) if flag == 1)
            name = row[206].strip()
            points = numbers[:196].reshape(98, 2)
            yield Sample(images / name, points, where, numbers[196:200], None, subsets, f"{name}#{line}")


def validate(sample: Sample) -> bytes:
    """Checks a sample and returns the bytes of its picture.

    Raises:
        BadSample: for a picture that is missing, truncated or not one; a box of no area or outside the picture; a
            sample without any landmark.
    """
    name = "its picture" if isinstance(sample.image, bytes) else f"the picture {sample.image}"
    try:
        content = sample.image if isinstance(sample.image, bytes) else sample.image.read_bytes()
    except OSError as error:
        raise BadSample(f"{sample.where}: {name} cannot be read ({error.strerror}).") from None
    picture = decode_image(content)
    if picture is None:
        raise BadSample(f"{sample.where}: {name} is truncated or not a picture; replace or remove it.")
    height, width = picture.shape[:2]
    if not np.isfinite(sample.landmarks).all(axis=1).any():
        raise BadSample(f"{sample.where} has no landmark at all; remove it.")
    if sample.bbox is not None:
        x1, y1, x2, y2 = sample.bbox
        if not (x2 > x1 and y2 > y1):
            raise BadSample(f"{sample.where}: the box {_numbers(sample.bbox)} has no area; expected x1 y1 x2 y2.")
        if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
            raise BadSample(
                f"{sample.where}: the box {_numbers(sample.bbox)} lies outside {name} of "
                f"{width}×{height} pixels; expected x1 y1 x2 y2 in its pixels."
            )
    points = sample.landmarks[np.isfinite(sample.landmarks).all(axis=1)]
    center = points.mean(axis=0)
    if not (-width <= center[0] <= 2 * width and -height <= center[1] <= 2 * height):
        raise BadSample(f"{sample.where}: the landmarks lie outside {name} of {width}×{height} pixels.")
    if np.ptp(points, axis=0).max() <= 0 and sample.bbox is None:
        raise BadSample(f"{sample.where}: all landmarks coincide and no box is given, so there is nothing to crop.")
    return content


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:g}" for value in values)

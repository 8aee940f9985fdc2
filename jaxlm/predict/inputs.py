"""What is given to predict on: pictures of any kind, files that a command line names, boxes from a CSV file."""

import csv
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.data.video_files import VIDEOS, is_video
from jaxlm.support.errors import BadSample
from jaxlm.support.files import walk
from jaxlm.support.pictures import PICTURES, decode_image, is_picture, why_undecodable

# An array, a file, or a picture of PIL.
Picture = Any

_SMALLEST_SIDE = 16  # pixels


def to_rgb(image: Picture) -> np.ndarray:
    """A picture as (H, W, 3) uint8 RGB.

    Args:
        image: an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) in grey, RGB or RGBA, of uint8 or, in [0, 1], of
            floats; a PIL picture; or the path of a file. PIL's pictures and files are turned upright as EXIF says.

    Raises:
        ValueError: for anything else, or values outside [0, 1].
        BadSample: naming a file that cannot be decoded or is too small.
        FileNotFoundError: for a file that does not exist.
    """
    if isinstance(image, str | Path):
        return read_picture(Path(image).expanduser())
    if hasattr(image, "convert") and hasattr(image, "getexif"):
        from PIL import ImageOps

        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"A picture must be an array (H, W) or (H, W, 1, 3 or 4), a file or PIL's, got {_kind(image)}."
        )
    if np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16":
        if not ((array >= 0) & (array <= 1)).all():
            raise ValueError("A picture of floats must lie in [0, 1]; give one in [0, 255] as uint8.")
        array = np.rint(255 * array.astype(np.float32)).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"A picture must be of uint8 or of floats in [0, 1], got {_kind(image)}.")
    return np.ascontiguousarray(np.broadcast_to(array[..., :3], (*array.shape[:2], 3)))


def _kind(image: Any) -> str:
    return f"shape {image.shape} of {image.dtype}" if hasattr(image, "dtype") else f"a {type(image).__name__}"


def read_picture(path: Path, *, upright: bool = True) -> np.ndarray:
    """Picture (H, W, 3) uint8 RGB of a file, turned as its EXIF says or as it is stored.

    Raises:
        BadSample: if it cannot be decoded or is too small for a face.
        FileNotFoundError: if it does not exist.
    """
    content = path.read_bytes()
    image = decode_image(content, upright=upright)
    if image is None:
        raise BadSample(f"{path} {why_undecodable(content)}.")
    if min(image.shape[:2]) < _SMALLEST_SIDE:
        raise BadSample(
            f"{path} has {image.shape[1]}×{image.shape[0]} pixels, which is too small for a face; "
            f"the least is {_SMALLEST_SIDE} on each side."
        )
    return image


class Inputs(NamedTuple):
    """What the command line names; every file with the name of its results, without ending.

    Attributes:
        pictures: path and name of the results of each picture.
        videos: those of each video.
        cameras: numbers of cameras.
        skipped: files in folders that are neither.
        failed: names that cannot be used, and a sentence about each.
    """

    pictures: list[tuple[Path, str]]
    videos: list[tuple[Path, str]]
    cameras: list[int]
    skipped: list[Path]
    failed: list[tuple[str, str]]


def find_inputs(names: list[str], out: Path | None = None) -> Inputs:
    """Files, all files within folders but hidden ones and those below `out`, and cameras.

    Raises:
        ValueError: if none of the names can be used.
    """
    inputs, used = Inputs([], [], [], [], []), {"predictions", *(f"camera{name}" for name in names)}
    for name in names:
        path = Path(name).expanduser()
        if name.isdigit() and not path.exists():
            inputs.cameras.append(int(name))
            continue
        files = [path] if path.is_file() else _files_below(path, out)
        kinds = [inputs.videos if is_video(file) else inputs.pictures if is_picture(file) else None for file in files]
        if not any(kind is not None for kind in kinds):
            inputs.failed.append((name, _why_not(path)))
            continue
        for file, kind in zip(files, kinds, strict=True):
            if kind is None:
                inputs.skipped.append(file)
                continue
            stem = file.relative_to(path).with_suffix("").as_posix().replace("/", "_") if path.is_dir() else file.stem
            stem = next(
                s for s in itertools.chain([stem], (f"{stem}_{n}" for n in itertools.count(2))) if s not in used
            )
            used.add(stem)
            kind.append((file, stem))
    if inputs.failed and len(inputs.failed) == len(names):
        raise ValueError(inputs.failed[0][1])
    return inputs


def _files_below(folder: Path, out: Path | None) -> list[Path]:
    """Files of a folder and its subfolders, links followed; no hidden ones, such as one that is being written."""
    found, own = [], None if out is None else out.resolve()
    for base, _, files in walk(folder):
        if own is None or own not in (base.resolve(), *base.resolve().parents):
            found += [base / name for name in files if not name.startswith(".")]
    return sorted(found)


def _why_not(path: Path) -> str:
    if not path.exists():
        return f"{path} does not exist."
    if path.is_dir():
        return f"{path} holds no picture and no video ({', '.join(PICTURES + VIDEOS)})."
    return f"{path} is neither a picture nor a video ({', '.join(PICTURES + VIDEOS)})."


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

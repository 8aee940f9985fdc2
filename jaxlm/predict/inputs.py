"""What is given to predict on: pictures of any kind, files that a command line names, boxes from a CSV file."""

import csv
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.data.video_files import PICTURES, VIDEOS
from jaxlm.support.errors import BadSample
from jaxlm.support.pictures import decode_image

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


def read_picture(path: Path) -> np.ndarray:
    """Picture (H, W, 3) uint8 RGB of a file, upright.

    Raises:
        BadSample: if it cannot be decoded or is too small for a face.
        FileNotFoundError: if it does not exist.
    """
    image = decode_image(path.read_bytes(), upright=True)
    if image is None:
        raise BadSample(f"{path} is not a picture that can be decoded: it is damaged, of another kind or too large.")
    if min(image.shape[:2]) < _SMALLEST_SIDE:
        raise BadSample(
            f"{path} has {image.shape[1]}×{image.shape[0]} pixels, which is too small for a face; "
            f"the least is {_SMALLEST_SIDE} on each side."
        )
    return image


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
            found = (file for file in path.rglob("*") if _is_input(file))
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


def _is_input(file: Path) -> bool:
    """Whether a file in a folder is a picture or a video, and not a hidden one, such as one that is being written."""
    return file.suffix.lower() in PICTURES + VIDEOS and not file.name.startswith(".") and file.is_file()


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

"""Annotated faces, their validation before the preparation, and the bins of their yaw."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np

from jaxlm.support.errors import BadSample
from jaxlm.support.pictures import decode_image, why_undecodable


@dataclasses.dataclass
class Sample:
    """One annotated face.

    Attributes:
        image: path of the picture, or its encoded bytes; the bytes are stored unchanged.
        landmarks: (K, 2) float, 0-based pixels; NaN where the landmark is missing.
        where: file and line of the annotation, for messages.
        bbox: (4,) x1 y1 x2 y2 in pixels; None means the box around the landmarks.
        visibility: (K,), 1 visible, 0 occluded; None means all visible.
        subsets: names of the evaluation subsets that the face belongs to.
        key: identifier of the sample within its data set.
        params: (P,) parameters of a morphable model in the picture's frame (`jaxlm.face3d.parameters`), or None.
    """

    image: Path | bytes
    landmarks: np.ndarray
    where: str
    bbox: np.ndarray | None = None
    visibility: np.ndarray | None = None
    subsets: tuple[str, ...] = ()
    key: str = ""
    params: np.ndarray | None = None


def validate(sample: Sample, *, upright: bool = True) -> bytes:
    """Checks a sample, whose picture is turned as its EXIF says or is as stored; returns the bytes of the picture.

    Raises:
        BadSample: if the picture is missing, truncated or not a picture; if the box has no area or lies outside the
            picture; if there is no landmark, the landmarks lie far outside the picture, or all of them coincide and
            there is no box.
    """
    name = "its picture" if isinstance(sample.image, bytes) else f"the picture {sample.image}"
    try:
        content = sample.image if isinstance(sample.image, bytes) else sample.image.read_bytes()
    except (OSError, ValueError) as error:  # a ValueError for a name with a null byte
        reason = getattr(error, "strerror", None) or error
        raise BadSample(f"{sample.where}: {name} cannot be read ({reason}); restore it.") from None
    picture = decode_image(content, upright=upright)
    if picture is None:
        raise BadSample(f"{sample.where}: {name} {why_undecodable(content)}.")
    height, width = picture.shape[:2]
    if not np.isfinite(sample.landmarks).all(axis=1).any():
        raise BadSample(f"{sample.where} has no landmark; remove it.")
    if sample.bbox is not None:
        check_boxes(sample.bbox, picture.shape, sample.where)
    points = sample.landmarks[np.isfinite(sample.landmarks).all(axis=1)]
    center = points.mean(axis=0)
    if not (-width <= center[0] <= 2 * width and -height <= center[1] <= 2 * height):
        raise BadSample(
            f"{sample.where}: the landmarks lie outside {name} of {width}×{height} pixels; expected x y in pixels of "
            "the picture."
        )
    if np.ptp(points, axis=0).max() <= 0 and sample.bbox is None:
        raise BadSample(f"{sample.where}: all landmarks coincide and there is no box to crop; add a box.")
    return content


def check_boxes(boxes: np.ndarray, shape: tuple[int, ...], where: str, *, of_frames: bool = False) -> np.ndarray:
    """Returns boxes (N, 4) as float64, after a check that each has an area and touches the picture.

    Args:
        boxes: (N, 4) or (4,) x1 y1 x2 y2.
        shape: (H, W, …) of the picture or video.
        where: file and line of the boxes, for the message.
        of_frames: whether there is a box for each frame of a video, NaN where the face is lost.

    Raises:
        BadSample: naming the first box that does not fit.
    """
    boxes = np.asarray(boxes, np.float64)
    if boxes.size in (0, 4):
        boxes = boxes.reshape(-1, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise BadSample(f"{where}: boxes must have the shape (N, 4), x1 y1 x2 y2, got {boxes.shape}.")
    height, width = shape[:2]
    x1, y1, x2, y2 = boxes.T
    has_area = np.isfinite(boxes).all(axis=1) & (x2 > x1) & (y2 > y1)
    inside = (x1 < width) & (y1 < height) & (x2 > 0) & (y2 > 0)
    bad = ~(has_area & inside)
    if of_frames:
        bad &= np.isfinite(boxes).all(axis=1)
    if bad.any():
        number = int(np.flatnonzero(bad)[0])
        numbers = " ".join(f"{value:g}" for value in boxes[number])
        reason = "lies outside" if has_area[number] else "has no area in"
        frame = f" of frame {number}" if of_frames else ""
        raise BadSample(
            f"{where}: the box {numbers}{frame} {reason} the {'video' if of_frames else 'picture'} of "
            f"{width}×{height} pixels; expected x1 y1 x2 y2 in its pixels."
        )
    return boxes


YAW_BINS = ("yaw_0_30", "yaw_30_60", "yaw_60_90")


def yaw_bin(degrees: float) -> str:
    """Name of the bin of a yaw angle of either sign: up to 30°, up to 60°, or more."""
    return YAW_BINS[int(np.searchsorted([30.0, 60.0], abs(degrees)))]


def picture_of_table(table: Path, name: str, images: str = "") -> Path:
    """Path of a picture that a table names.

    It lies in the folder `images` if that is given; otherwise beside the table, in `images` beside the table, or in
    `images` beside the table's folder, as COCO's lie beside `annotations`.
    """
    name = name.replace("\\", "/")
    folders = [Path(images).expanduser()] if images else [table.parent, table.parent / "images"]
    folders += [] if images else [table.parent.parent / "images"]
    places = [folder / name for folder in folders]
    with contextlib.suppress(OSError):  # of a name that is too long
        return next((place for place in places if place.is_file()), places[0])
    return places[0]

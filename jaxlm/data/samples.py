"""Annotated faces, their validation before the preparation, and the bins of their yaw."""

import dataclasses
from pathlib import Path

import numpy as np

from jaxlm.support.errors import BadSample
from jaxlm.support.pictures import decode_image


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


def validate(sample: Sample) -> bytes:
    """Checks a sample and returns the bytes of its picture.

    Raises:
        BadSample: if the picture is missing, truncated or not a picture; if the box has no area or lies outside the
            picture; if there is no landmark, the landmarks lie far outside the picture, or all of them coincide and
            there is no box.
    """
    name = "its picture" if isinstance(sample.image, bytes) else f"the picture {sample.image}"
    try:
        content = sample.image if isinstance(sample.image, bytes) else sample.image.read_bytes()
    except OSError as error:
        raise BadSample(f"{sample.where}: {name} cannot be read ({error.strerror}); restore it.") from None
    picture = decode_image(content)
    if picture is None:
        raise BadSample(f"{sample.where}: {name} is truncated or not a picture; replace or remove it.")
    height, width = picture.shape[:2]
    if not np.isfinite(sample.landmarks).all(axis=1).any():
        raise BadSample(f"{sample.where} has no landmark; remove it.")
    if sample.bbox is not None:
        x1, y1, x2, y2 = sample.bbox
        if not (x2 > x1 and y2 > y1):
            raise BadSample(f"{sample.where}: the box {_numbers(sample.bbox)} has no area; expected x1 y1 x2 y2.")
        if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
            raise BadSample(
                f"{sample.where}: the box {_numbers(sample.bbox)} lies outside {name} of "
                f"{width}×{height} pixels; expected x1 y1 x2 y2 in pixels of the picture."
            )
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


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:g}" for value in values)


YAW_BINS = ("yaw_0_30", "yaw_30_60", "yaw_60_90")


def yaw_bin(degrees: float) -> str:
    """Name of the bin of a yaw angle of either sign: up to 30°, up to 60°, or more."""
    return YAW_BINS[int(np.searchsorted([30.0, 60.0], abs(degrees)))]


def picture_of_table(table: Path, name: str) -> Path:
    """Path of a picture that a table names: beside the table or, if it is not there, in `images` beside the table."""
    beside, inside = table.parent / name, table.parent / "images" / name
    return inside if inside.exists() and not beside.exists() else beside

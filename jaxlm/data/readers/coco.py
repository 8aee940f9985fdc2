"""Reads samples from COCO-keypoints JSON. Messages name the field of an error."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.samples import Sample, picture_of_table
from jaxlm.support.errors import BadSample


def read_coco(
    path: Path, num_landmarks: int, notices: list[str] | None = None, *, images: str = ""
) -> Iterator[Sample | BadSample]:
    """Samples of a COCO-keypoints JSON: `images`, `annotations` with `keypoints` (x, y, v) × K and `bbox` x y w h.

    `bbox` is optional. v = 0 marks a missing landmark, wherever it lies, v = 1 an occluded one. Coordinates are 0-based
    pixels. Pictures lie beside the file, in a folder `images` beside it or beside its folder, or in `images`. Crowds
    and annotations without keypoints, as those of people whose face nobody labelled, are left out and counted in
    `notices`. An annotation that cannot be used is yielded as a BadSample.

    Raises:
        BadSample: if the file is not COCO-keypoints JSON.
    """
    try:
        content = json.loads(path.read_bytes())
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        annotations = list(content["annotations"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadSample(f"{path} is not COCO-keypoints JSON ({type(error).__name__}: {error}).") from None
    left_out = 0
    for position, annotation in enumerate(annotations):
        if isinstance(annotation, dict) and _is_unlabelled(annotation):
            left_out += 1
            continue
        try:
            yield _sample(path, annotation, names, num_landmarks, position, images)
        except BadSample as error:
            yield error
    if left_out and notices is not None:
        notices.append(f"{path.name}: {left_out} annotations without keypoints, or of crowds, are left out")


def _is_unlabelled(annotation: dict[str, Any]) -> bool:
    keypoints = annotation.get("keypoints")
    if annotation.get("iscrowd") == 1 or not keypoints:
        return True
    return isinstance(keypoints, list) and len(keypoints) % 3 == 0 and all(flag == 0 for flag in keypoints[2::3])


def _sample(path: Path, annotation: Any, names: dict, num_landmarks: int, position: int, images: str) -> Sample:
    where = f"{path}, annotations[{position}]"
    if not isinstance(annotation, dict):
        raise BadSample(f"{where} must be an object with image_id and keypoints, got {str(annotation)[:40]}.")
    numbers = annotation["keypoints"]
    if not isinstance(numbers, list) or len(numbers) != 3 * num_landmarks:
        count = len(numbers) if isinstance(numbers, list) else 0
        raise BadSample(f"{where} has {count} numbers in keypoints where the scheme needs 3 × {num_landmarks}.")
    try:
        keypoints = np.asarray(numbers, np.float64).reshape(num_landmarks, 3)
        box = [float(number) for number in annotation.get("bbox") or ()]
    except (TypeError, ValueError, OverflowError):
        raise BadSample(f"{where}: keypoints and bbox must be lists of numbers.") from None
    if len(box) not in (0, 4):
        raise BadSample(f"{where}: bbox has {len(box)} numbers; expected x, y, width, height.")
    identifier = annotation.get("image_id")
    if not isinstance(identifier, int | str | float) or identifier not in names:
        raise BadSample(f"{where}: image_id must be the id of one of images, got {str(identifier)[:40]}.")
    missing = keypoints[:, 2] == 0
    if not np.isfinite(keypoints[~missing]).all():
        raise BadSample(f"{where}: keypoints must be finite numbers.")
    x, y, width, height = box or (0.0, 0.0, 0.0, 0.0)
    return Sample(
        picture_of_table(path, names[identifier], images),
        np.where(missing[:, None], np.nan, keypoints[:, :2]),
        where,
        np.array([x, y, x + width, y + height]) if box else None,
        (keypoints[:, 2] != 1).astype(np.float32),
        key=f"{names[identifier]}#{position}",
    )

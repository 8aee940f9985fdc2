"""Annotations in NumPy's own files, read as numbers and nothing else."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxlm.data.readers import Sample
from jaxlm.support.errors import BadSample


def read_npy(path: Path) -> np.ndarray:
    """Numbers of a `.npy` file.

    Raises:
        BadSample: if it cannot be read, or holds something else.
    """
    try:
        return np.asarray(np.load(path, allow_pickle=False), np.float64)
    except (OSError, ValueError) as error:
        raise BadSample(f"{path} cannot be read as an array of numbers ({str(error).splitlines()[0]}).") from None


def read_npz(path: Path, num_landmarks: int) -> Iterator[Sample]:
    """Samples of an `.npz` file with `image` (N,), names of pictures, and `landmarks` (N, K, 2), 0-based pixels.

    NaN is a missing landmark. Pictures are looked for beside the file and in a folder `images` beside it.

    Raises:
        BadSample: for a file that is not of this form.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            names, landmarks = file["image"], np.asarray(file["landmarks"], np.float64)
    except Exception as error:
        raise BadSample(f"{path} has no arrays image and landmarks ({str(error).splitlines()[0]}).") from None
    if names.ndim != 1 or landmarks.shape != (len(names), num_landmarks, 2):
        raise BadSample(
            f"{path}: landmarks is {landmarks.shape} where {len(names)} pictures of the scheme need "
            f"({len(names)}, {num_landmarks}, 2)."
        )
    for number, name in enumerate(map(str, names)):
        image = path.parent / name
        if not image.exists() and (path.parent / "images" / name).exists():
            image = path.parent / "images" / name
        yield Sample(image, landmarks[number], f"{path}, row {number}", key=name)

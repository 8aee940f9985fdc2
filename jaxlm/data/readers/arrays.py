"""Reads annotations from NumPy files, without unpickling."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxlm.data.samples import Sample, picture_of_table
from jaxlm.support import numpy_files
from jaxlm.support.errors import BadSample, first_line


def read_npy(path: Path, shape: tuple[int | None, ...] | None = None) -> np.ndarray:
    """Array of numbers of a `.npy` file as float64; a pickled array is refused.

    Args:
        path: path of the file.
        shape: required shape, in which None stands for an axis of any length; None accepts any shape.

    Raises:
        BadSample: if the file is missing, cannot be read, or does not hold numbers of this shape.
    """
    try:
        array = numpy_files.read_npy(path)
    except FileNotFoundError:
        raise BadSample(f"{path} is missing.") from None
    except Exception as error:  # NumPy's parser of headers raises whatever Python's tokenizer does
        raise BadSample(f"{path} is not an array of numbers ({first_line(error)}).") from None
    wanted = array.shape if shape is None else shape
    fits = array.ndim == len(wanted) and all(n in (None, m) for n, m in zip(wanted, array.shape, strict=True))
    if not fits or not np.issubdtype(array.dtype, np.number):
        expected = " × ".join("any" if n is None else str(n) for n in wanted)
        raise BadSample(f"{path} holds {array.dtype} of shape {array.shape}; expected numbers of shape {expected}.")
    return array.astype(np.float64)


def read_boxes(path: Path) -> np.ndarray:
    """Boxes (T, 4) of a `.npy` file: its first four columns x1 y1 x2 y2.

    Raises:
        BadSample: if the file does not hold a table of numbers with at least four columns.
    """
    boxes = read_npy(path, (None, None))
    if boxes.shape[1] < 4:
        raise BadSample(f"{path} has {boxes.shape[1]} columns; expected x1 y1 x2 y2.")
    return boxes[:, :4]


def read_npz(path: Path, num_landmarks: int) -> Iterator[Sample]:
    """Samples of an `.npz` file with `image` (N,), names of pictures, and `landmarks` (N, K, 2), 0-based pixels.

    NaN marks a missing landmark. Pictures lie beside the file or in a folder `images` beside it.

    Raises:
        BadSample: if the file is not of this form.
    """
    try:
        file = numpy_files.read_npz(path)
        names, landmarks = file["image"], np.asarray(file["landmarks"], np.float64)
    except Exception as error:
        raise BadSample(f"{path} has no arrays image and landmarks ({first_line(error)}).") from None
    if names.ndim != 1 or landmarks.shape != (len(names), num_landmarks, 2):
        raise BadSample(
            f"{path}: landmarks has the shape {landmarks.shape}; for {len(names)} pictures the scheme needs "
            f"({len(names)}, {num_landmarks}, 2)."
        )
    for number, name in enumerate(map(str, names)):
        yield Sample(picture_of_table(path, name), landmarks[number], f"{path}, row {number}", key=name)

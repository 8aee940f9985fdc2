"""Reads MATLAB files, plain or HDF5, as arrays. MATLAB counts pixels from 1."""

import math
import zlib
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError

from jaxlm.support.errors import BadSample, first_line
from jaxlm.support.limits import check_held, file_limit

_COMPRESSION = 1032  # the most that a byte of zlib's can become

# Exceptions that SciPy and h5py raise for a file that is damaged or of another kind.
DAMAGED = (
    OSError, ValueError, TypeError, KeyError, IndexError, RuntimeError, EOFError, NotImplementedError, MatReadError,
    zlib.error,
)  # fmt: skip


def read_mat(path: Path, fields: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Numeric fields of a MATLAB file of version 7 or older.

    Raises:
        BadSample: for a file that cannot be read, or a field that is missing or does not hold numbers.
    """
    try:
        _check_size(path, fields)
        content = scipy.io.loadmat(path, variable_names=fields)
    except DAMAGED as error:
        raise BadSample(f"{path} cannot be read as a MATLAB file ({first_line(error)}).") from None
    for field in fields:
        if field not in content:
            raise BadSample(f"{path} has no field {field}.")
        if content[field].dtype.kind not in "biuf":
            raise BadSample(f"{path}: the field {field} does not hold numbers.")
    return {field: content[field] for field in fields}


def read_names(path: Path, field: str) -> list[str]:
    """Names in a cell array of a MATLAB file.

    Raises:
        BadSample: if the field is missing or holds something else.
    """
    try:
        _check_size(path, (field,))
        return [str(np.ravel(cell)[0]) for cell in scipy.io.loadmat(path, variable_names=(field,))[field].ravel()]
    except DAMAGED as error:
        raise BadSample(f"{path}: {field} does not hold names ({first_line(error)}).") from None


def _check_size(path: Path, fields: tuple[str, ...]) -> None:
    """Raises a ValueError if fields hold more than the limit; a file that is small enough is not looked into."""
    if path.stat().st_size * _COMPRESSION > file_limit():
        check_held(sum(8 * math.prod(shape) for name, shape, _ in scipy.io.whosmat(path) if name in fields))


def read_dataset(dataset: h5py.Dataset | Any) -> np.ndarray:
    """Array of an HDF5 data set.

    Raises:
        ValueError: if it holds more than the limit; others of `DAMAGED` if it cannot be read.
    """
    check_held(math.prod(dataset.shape) * dataset.dtype.itemsize)
    return np.array(dataset)


def open_hdf5(path: Path) -> h5py.File:
    """Opens a MATLAB 7.3 file for reading.

    Raises:
        BadSample: if it is not a MATLAB 7.3 file.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise BadSample(f"{path} cannot be read as a MATLAB 7.3 (HDF5) file ({first_line(error)}).") from None


def png_of(pixels: np.ndarray) -> bytes:
    """Bytes of a PNG file of a grey (H, W) or RGB (H, W, 3) picture."""
    picture = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", np.ascontiguousarray(picture))[1].tobytes()

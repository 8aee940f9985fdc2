"""Reads NumPy's files without unpickling, and without taking the memory that a damaged header asks for."""

import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jaxlm.support.limits import check_held


def read_npy(path: Path) -> np.ndarray:
    """Array of a `.npy` file.

    Raises:
        OSError, ValueError: if it cannot be read, or holds more than the file has or the limit allows.
    """
    with path.open("rb") as file:
        if file.read(2) == b"PK":
            raise ValueError("it holds several arrays, as numpy.savez writes them")
        file.seek(0)
        nbytes = _declared(file)
        check_held(nbytes)
        if nbytes > path.stat().st_size:
            raise ValueError(f"its header declares {nbytes} bytes, and the file has {path.stat().st_size}")
        file.seek(0)
        return np.load(file, allow_pickle=False)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a `.npz` file by their names.

    Raises:
        OSError, ValueError: if it cannot be read, or holds more than it declares or the limit allows.
    """
    with path.open("rb") as opened, zipfile.ZipFile(opened) as archive:
        members = archive.infolist()
        check_held(sum(member.file_size for member in members))
        for member in members:
            with archive.open(member) as file:
                if _declared(file) > member.file_size:
                    raise ValueError(f"{member.filename} in it declares more than it holds")
        opened.seek(0)
        with np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}


def _declared(file: BinaryIO | Any) -> int:
    """Bytes of the array that a header declares."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which would have to be unpickled")
    return math.prod(shape) * dtype.itemsize

"""Reads arrays from pickles of other programs without executing code in them.

The unpickler builds only NumPy arrays and Python's built-in types.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np


def _latin1(text: str, encoding: str) -> bytes:
    """Encodes text as Latin-1, which is how pickles of protocol 2 hold bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds bytes encoded as {encoding}, not latin1")
    return text.encode("latin1")


# Names that pickled NumPy arrays refer to, before and after NumPy renamed its modules.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # pyright: ignore
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # pyright: ignore
    ("numpy.core.multiarray", "scalar"): np._core.multiarray.scalar,  # pyright: ignore
    ("numpy._core.multiarray", "scalar"): np._core.multiarray.scalar,  # pyright: ignore
    ("numpy.core.numeric", "_frombuffer"): np._core.numeric._frombuffer,  # pyright: ignore
    ("numpy._core.numeric", "_frombuffer"): np._core.numeric._frombuffer,  # pyright: ignore
    ("_codecs", "encode"): _latin1,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not part of an array")
        return _ALLOWED[module, name]


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Loads the arrays of a pickled dict by name; a pickled array that is not in a dict gets the name "".

    Raises:
        ValueError: if the file does not exist or holds anything but numeric arrays.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file).load()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist.") from None
    except Exception as error:
        reason = (str(error).splitlines() or ["empty"])[0][:160]
        raise ValueError(f"{path} is not a pickle of arrays only ({reason}); no code in it was executed.") from None
    if isinstance(content, np.ndarray):
        content = {"": content}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of arrays.")
    arrays = {str(key): np.asarray(value) for key, value in content.items() if value is not None}
    if any(array.dtype.kind not in "biuf" for array in arrays.values()):
        raise ValueError(f"{path} holds values that are not numeric; every value must be an array of numbers.")
    return arrays

"""Pickles that other programs wrote, read without running anything in them: only arrays, numbers and strings."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np


def _latin1(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 hold bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds bytes as {encoding}")
    return text.encode("latin1")


# What NumPy's own pickles name, before and since its modules were renamed.
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
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not an array")
        return _ALLOWED[module, name]


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays of a pickled dict; a pickled array alone is under the name "".

    Raises:
        ValueError: if the file does not exist or holds anything else.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file).load()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist.") from None
    except Exception as error:
        reason = (str(error).splitlines() or ["empty"])[0][:160]
        raise ValueError(f"{path} is not a pickle of arrays alone ({reason}); nothing in it was run.") from None
    if isinstance(content, np.ndarray):
        content = {"": content}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of arrays.")
    arrays = {str(key): np.asarray(value) for key, value in content.items() if value is not None}
    if any(array.dtype.kind not in "biuf" for array in arrays.values()):
        raise ValueError(f"{path} holds arrays of something else than numbers.")
    return arrays

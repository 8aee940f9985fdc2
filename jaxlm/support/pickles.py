"""Reads arrays from pickles of other programs without executing code in them, and without NumPy's own unpickling.

A pickle names functions and classes to call. Here every name stands for a description of this module's own; arrays are
made from the described bytes at the end, after their sizes have been checked.
"""

import io
import math
import pickle
import re
import reprlib
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Python's own unpickler, because the one in C takes as much memory as a place in the memo that the file names.
_Unpickler: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]


class Described:
    """A described value; `finish` makes it."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"it holds a {type(self).__name__} with a state")

    def finish(self, made: dict[int, Any]) -> Any:
        """The value; `made` as in `finished`."""
        raise NotImplementedError


class SafeUnpickler(_Unpickler):
    """Unpickler that builds Python's plain types, and what its table of names allows.

    Args:
        file: bytes of the pickle.
        allowed: (module, name) -> what is called in its place.
        persistent: called with the identity of what lies outside the pickle, such as PyTorch's storages.
    """

    def __init__(
        self,
        file: io.BytesIO,
        allowed: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None = None,
    ):
        super().__init__(file, encoding="latin1")  # as Python 2 wrote bytes
        self._allowed, self._persistent = allowed, persistent

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not part of an array")
        return self._allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise pickle.UnpicklingError("it refers to something outside itself")
        return self._persistent(pid)

    def get_extension(self, code: int) -> Any:
        raise pickle.UnpicklingError(f"it refers to the extension {code}")

    def load_build(self) -> None:
        """Gives a state to what was built by this module; a function or a class would be changed for all others."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Described):
            raise pickle.UnpicklingError("it gives a state to something that has none")
        self.stack[-1].__setstate__(state)

    def load_bytearray8(self) -> None:
        """Reads the bytes before it takes memory for them."""
        (count,) = struct.unpack("<Q", self.read(8))
        content = self.read(min(count, sys.maxsize))
        if len(content) < count:
            raise pickle.UnpicklingError("it ends before its bytes do")
        self.append(bytearray(content))

    dispatch = {
        **_Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


class _Dtype(Described):
    """Type of an array: a number of a known size."""

    def __init__(self, text: Any = "", *others: Any):
        del others  # align and copy
        if not (isinstance(text, str) and re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248]|c8|c16)", text)):
            raise pickle.UnpicklingError(f"it holds an array of {reprlib.repr(text)}, which are no numbers")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "=")):
            raise pickle.UnpicklingError("it holds a type of an array that is no number")
        self.dtype = self.dtype.newbyteorder(state[1])

    def finish(self, made: dict[int, Any]) -> Any:
        return self.dtype.str


class _Array(Described):
    """An array that `__setstate__` describes, as NumPy pickles it."""

    def __init__(self, *others: Any):
        del others  # of `_reconstruct`: the class and an empty shape
        self.array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise pickle.UnpicklingError("it holds an array in an unknown form")
        _, shape, dtype, fortran, content = state
        self.array = array_of(content, dtype, shape, "F" if fortran else "C")

    def finish(self, made: dict[int, Any]) -> Any:
        if self.array is None:
            raise pickle.UnpicklingError("it holds an array without content")
        return self.array


def array_of(content: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    """Array of bytes, whose number must be that of the shape.

    Raises:
        pickle.UnpicklingError: if it is not, or the arguments are of other kinds.
    """
    if isinstance(content, str):  # as Python 2 wrote bytes
        content = content.encode("latin1")
    if not (isinstance(content, bytes | bytearray) and isinstance(dtype, _Dtype) and order in ("C", "F", "A")):
        raise pickle.UnpicklingError("it holds an array that is not made of numbers")
    sizes = check_sizes(shape)
    if math.prod(sizes) * dtype.dtype.itemsize != len(content):
        raise pickle.UnpicklingError(f"an array of the shape {sizes} does not have {len(content)} bytes")
    return np.frombuffer(content, dtype.dtype).reshape(sizes, order="F" if order == "F" else "C").copy(order="A")


def check_sizes(shape: Any) -> tuple[int, ...]:
    """A shape whose sizes are whole numbers from 0 on."""
    sizes = shape if isinstance(shape, tuple) else (shape,)
    if len(sizes) > 32 or not all(type(size) is int and 0 <= size < 2**40 for size in sizes):
        raise pickle.UnpicklingError(f"it holds the shape {reprlib.repr(shape)}")
    return sizes


def _scalar(dtype: Any, content: Any) -> Any:
    return array_of(content, dtype, ())[()]


def _encoded(text: Any, encoding: Any) -> bytes:
    """Bytes as pickles of protocol 2 hold them."""
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError(f"it holds bytes encoded as {reprlib.repr(encoding)}, not latin1")
    return text.encode("latin1")


# Names that pickled NumPy arrays refer to, before and after NumPy renamed its modules.
ARRAYS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encoded,
}
for _core in ("numpy.core", "numpy._core"):
    ARRAYS |= {
        (f"{_core}.multiarray", "_reconstruct"): _Array,
        (f"{_core}.multiarray", "scalar"): _scalar,
        (f"{_core}.numeric", "_frombuffer"): array_of,
    }


def finished(value: Any, made: dict[int, Any] | None = None) -> Any:
    """The value with everything described in it made; dicts, lists and tuples may be nested.

    Args:
        value: what `SafeUnpickler` loaded.
        made: identity of a value -> the same, made. What is referred to many times is made once.

    Raises:
        pickle.UnpicklingError: if something holds itself, or its sizes do not fit.
    """
    made = {} if made is None else made
    if id(value) in made:
        if made[id(value)] is _UNFINISHED:
            raise pickle.UnpicklingError("it holds something that holds itself")
        return made[id(value)]
    if not isinstance(value, Described | dict | list | tuple):
        return value
    made[id(value)] = _UNFINISHED
    if isinstance(value, Described):
        result = value.finish(made)
    elif isinstance(value, dict):
        result = {finished(key, made): finished(held, made) for key, held in value.items()}
    else:
        items = [finished(held, made) for held in value]
        result = items if isinstance(value, list) else tuple(items)
    made[id(value)] = result
    return result


_UNFINISHED = object()


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Loads the arrays of a pickled dict by name; a pickled array that is not in a dict gets the name "".

    Raises:
        ValueError: if the file does not exist or holds anything but numeric arrays.
    """
    path = Path(path)
    try:
        content = finished(SafeUnpickler(io.BytesIO(path.read_bytes()), ARRAYS).load())
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist.") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(
            f"{path} is not a pickle of arrays only ({reason(error)}); no code in it was executed."
        ) from None
    if isinstance(content, np.ndarray):
        content = {"": content}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dict of arrays.")
    arrays = {str(key): _as_array(value) for key, value in content.items() if value is not None}
    if any(array.dtype.kind not in "biuf" for array in arrays.values()):
        raise ValueError(f"{path} holds values that are not numeric; every value must be an array of numbers.")
    return arrays


def _as_array(value: Any) -> np.ndarray:
    """An array, a number or a flat list of numbers as an array; anything else as text, which is no number."""
    listed = value if isinstance(value, list | tuple) else [value]
    if isinstance(value, np.ndarray) or all(isinstance(item, int | float | np.number | np.bool_) for item in listed):
        return np.asarray(value)
    return np.array("")


def reason(error: BaseException) -> str:
    """First line of an error's message, or the kind of error."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]

"""Reads what `torch.save` wrote, without PyTorch and without executing code in the file.

Since 1.6 PyTorch writes a ZIP archive: a pickle `data.pkl`, and the bytes of each storage in `data/KEY`. Before, it
wrote five pickles one after the other, and then the storages. In both, the pickle refers to storages by persistent
identities, ("storage", type, key, device, number of elements).
"""

import argparse
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm.support.pickles import ARRAYS, Described, SafeUnpickler, check_sizes, finished, reason

_MAGIC = 0x1950A86A20F9469CFC6C  # of the form before 1.6
_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _Type(NamedTuple):
    """Type of a storage's elements."""

    name: str

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return 2 if self.name == "bfloat16" else np.dtype(self.name).itemsize

    def read(self, content: bytes) -> np.ndarray:
        """Elements of a storage; bfloat16 as float32."""
        if self.name != "bfloat16":
            return np.frombuffer(content, self.name)
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)


class _Storage:
    """Elements that tensors share, whose bytes come later."""

    def __init__(self, kind: _Type, count: int):
        self.kind, self.count = kind, count
        self.elements: np.ndarray | None = None


class _Tensor(Described):
    """A tensor: a window into a storage."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *others: Any):
        del others  # of gradients
        sizes, steps = check_sizes(size), check_sizes(stride)
        last = offset + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True)) if sizes else offset
        count = math.prod(sizes)
        if not (isinstance(storage, _Storage) and type(offset) is int and offset >= 0 and count <= storage.count):
            raise pickle.UnpicklingError(f"it holds a tensor of the shape {sizes} without the elements for it")
        if count and last >= storage.count:
            raise pickle.UnpicklingError(f"it holds a tensor of the shape {sizes} that reaches beyond its storage")
        self.storage, self.offset, self.sizes, self.steps = storage, offset, sizes, steps

    def finish(self, made: dict[int, Any]) -> np.ndarray:
        elements = self.storage.elements
        if elements is None:
            raise pickle.UnpicklingError("it lacks the storage of a tensor")
        if 0 in self.sizes:
            return np.zeros(self.sizes, elements.dtype)
        strides = [step * elements.itemsize for step in self.steps]
        # A view: many tensors of one storage take no further memory.
        return np.lib.stride_tricks.as_strided(elements[self.offset :], self.sizes, strides, writeable=False)


class _Mapping(Described, dict):
    """An ordered dict, whose attributes (of modules) are left out."""

    def __setstate__(self, state: Any) -> None:
        del state

    def finish(self, made: dict[int, Any]) -> dict[Any, Any]:
        return {finished(key, made): finished(held, made) for key, held in self.items()}


class _Namespace(Described):
    """Settings of a training, `argparse.Namespace`."""

    def __init__(self):
        self.held: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, dict) and all(isinstance(key, str) for key in state)):
            raise pickle.UnpicklingError("it holds settings in an unknown form")
        self.held = state

    def finish(self, made: dict[int, Any]) -> argparse.Namespace:
        return argparse.Namespace(**finished(self.held, made))


def _parameter(tensor: Any, *others: Any) -> Any:
    del others  # of gradients
    return tensor


_ALLOWED: dict[tuple[str, str], Any] = {
    **ARRAYS,
    ("collections", "OrderedDict"): _Mapping,
    ("argparse", "Namespace"): _Namespace,
    ("torch._utils", "_rebuild_tensor"): _Tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): tuple,
    **{("torch", name): _Type(text) for name, text in _TYPES.items()},
}


def load(path: Path) -> Any:
    """What the file holds, with tensors as arrays (bfloat16 as float32).

    Raises:
        ValueError: if the file does not exist, or holds anything but tensors, arrays and Python's plain types.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"{path} does not exist.") from None
    try:
        return finished(_read_archive(content) if zipfile.is_zipfile(path) else _read_sequence(content))
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(f"{path} is not a file of PyTorch weights alone ({reason(error)}).") from None


def _read_archive(content: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}

        def read(name: str, size: int | None = None) -> bytes:
            if name not in entries:
                raise pickle.UnpicklingError(f"it lacks {name}")
            info = entries[name]
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(content):
                raise pickle.UnpicklingError(f"{name} is compressed, which PyTorch does not do")
            if size is not None and info.file_size != size:
                raise pickle.UnpicklingError(f"{name} has {info.file_size} bytes where its tensors need {size}")
            return archive.read(info)

        if "byteorder" in entries and read("byteorder").strip() != b"little":
            raise pickle.UnpicklingError("it was written on a big-endian machine")
        storages: dict[str, _Storage] = {}

        def take(key: str, storage: _Storage) -> _Storage:
            return storages.setdefault(key, storage)

        held = SafeUnpickler(io.BytesIO(read("data.pkl")), _ALLOWED, _persistent(take)).load()
        for key, storage in storages.items():
            storage.elements = storage.kind.read(read(f"data/{key}", storage.count * storage.kind.width))
    return held


def _read_sequence(content: bytes) -> Any:
    file = io.BytesIO(content)
    if SafeUnpickler(file, {}).load() != _MAGIC:
        raise pickle.UnpicklingError("it does not begin as torch.save writes")
    for _ in range(2):  # the version, and the sizes of C's types
        SafeUnpickler(file, {}).load()
    storages: dict[str, _Storage] = {}

    def take(key: str, storage: _Storage) -> _Storage:
        return storages.setdefault(key, storage)

    held = SafeUnpickler(file, _ALLOWED, _persistent(take)).load()
    for key in SafeUnpickler(file, {}).load():
        storage = storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        elements = file.read(storage.count * storage.kind.width)
        if count != storage.count or len(elements) != storage.count * storage.kind.width:
            raise pickle.UnpicklingError("it ends before its tensors do")
        storage.elements = storage.kind.read(elements)
    return held


def _persistent(take: Callable[[str, _Storage], _Storage]) -> Callable[[Any], _Storage]:
    """Reads the identity of a storage; `take` gets its key and gives the storage of that key."""

    def read(identity: Any) -> _Storage:
        if not (isinstance(identity, tuple) and len(identity) >= 5 and identity[0] == "storage"):
            raise pickle.UnpicklingError("it refers to something that is no storage")
        _, kind, key, _, count, *view = identity
        if not (isinstance(kind, _Type) and isinstance(key, str) and type(count) is int and 0 <= count < 2**40):
            raise pickle.UnpicklingError("it refers to a storage of unknown elements")
        if view and view[0] is not None:
            raise pickle.UnpicklingError("it refers to a part of a storage, as only PyTorch before 0.4 did")
        storage = take(key, _Storage(kind, count))
        if (storage.kind, storage.count) != (kind, count):
            raise pickle.UnpicklingError(f"it describes the storage {key[:20]} twice")
        return storage

    return read

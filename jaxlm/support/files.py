"""Atomic writing of files, and values without NaN for JSON."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file atomically: replaces it only once the new one is complete."""
    write_bytes_atomically(path, lambda file: file.write(text.encode()))


def write_bytes_atomically(path: Path, write: Callable[[Any], Any]) -> None:
    """Writes a binary file atomically; `write` writes its bytes into the open file that it is given."""
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            write(file)
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A name beside `path`, with its ending, that no other process or thread has."""
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}.partial{path.suffix}")


def put_in_place(temporary: Path, path: Path) -> None:
    """Replaces `path` by a complete file, once that is on the disk."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder below one, itself first, with the names of its folders and of its files; links are followed once."""
    seen: set[Path] = set()
    for base, folders, files in os.walk(folder, followlinks=True):
        real = Path(base).resolve()
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        yield Path(base), folders, files


def without_nan(value: Any) -> Any:
    """Value with None (null in JSON) in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value

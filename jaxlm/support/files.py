"""Atomic writing of files, and values without NaN for JSON."""

import hashlib
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


def checksums(path: Path) -> dict[str, str]:
    """SHA-256 of a file ("."), or of each file in a folder by its name there; hidden files of others are left out."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("[!.]*") if file.is_file())
    return {file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def check_checksums(path: Path, expected: dict[str, str], written_in: Path) -> None:
    """Compares a file or folder with its `checksums`, which were read from another file.

    Raises:
        ValueError: naming a file that is missing, was added or has changed.
    """
    found = checksums(path)
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            fault = "is missing" if name not in found else "has changed" if name in expected else "does not belong here"
            by = f"by the checksums in {written_in.name}"
            raise ValueError(f"{path / name} {fault} since the model was written, {by}: copy or export it again.")


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Each folder below one, itself first, with the names of its folders and of its files.

    Links are followed, to each folder once; hidden folders are passed over.
    """
    seen: set[Path] = set()
    for base, folders, files in os.walk(folder, followlinks=True):
        real = Path(base).resolve()
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        yield Path(base), folders, files


def without_nan(value: Any) -> Any:
    """Value with None (null in JSON) in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value

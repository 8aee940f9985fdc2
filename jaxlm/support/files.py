"""Files that are written whole or not at all, and numbers as JSON takes them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file by a complete one, never leaving half of it."""
    write_bytes_atomically(path, lambda file: file.write(text.encode()))


def write_bytes_atomically(path: Path, write: Callable[[Any], Any]) -> None:
    """The same for what `write` puts into an open binary file."""
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            write(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def without_nan(value: Any) -> Any:
    """JSON has no NaN: what could not be measured is null."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value

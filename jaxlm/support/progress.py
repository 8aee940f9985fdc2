"""Progress bars, updated several times a second on a terminal and every half minute in a log file; times of parts."""

import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(iterable: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """tqdm progress bar over an iterable; takes the options of tqdm."""
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(iterable, dynamic_ncols=True, mininterval=interval, maxinterval=max(interval, 10.0), **options)


class Stopwatch:
    """Time that the parts of a program take; as text "data 0:55, training 2:10", in the order of their beginnings."""

    def __init__(self):
        self.parts: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Counts the time since the last call for `part`."""
        now = time.perf_counter()
        self.parts[part] = self.parts.get(part, 0.0) + now - self._last
        self._last = now

    def __str__(self) -> str:
        return ", ".join(f"{part} {round(s) // 60}:{round(s) % 60:02d}" for part, s in self.parts.items())

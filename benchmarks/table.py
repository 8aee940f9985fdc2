"""Tables of measurements, and functions that are timed in turns."""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxlm.support.files import without_nan, write_atomically

Values = dict[str, Any]  # unit or name -> number or word


class Table:
    """A table that is printed, and written to its JSON file, line by line.

    Args:
        path: of the file; none is written for None.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self.lines: dict[str, Values] = {}

    def title(self, text: str) -> None:
        """Prints what the next lines are about."""
        print(f"\n{text}", flush=True)

    def add(self, line: str, values: Values) -> None:
        """Prints a line and writes the file again."""
        self.lines[line] = values
        self.write()
        self.show(line)

    def write(self) -> None:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, json.dumps(without_nan(self.content()), indent=1, ensure_ascii=False) + "\n")

    def content(self) -> dict[str, Any]:
        return {"device": jax.devices()[0].device_kind, "jax": jax.__version__, "lines": self.lines}

    def show(self, line: str) -> None:
        values = [item for item in self.lines[line].items() if not isinstance(item[1], list | dict)]
        cells = (f"{value:.4g} {key}" if isinstance(value, float) else f"{key} {value}" for key, value in values)
        print(f"{line:<44}{',  '.join(cells)}", flush=True)


class Turns(NamedTuple):
    """Times of functions that were called in turns.

    Attributes:
        seconds: name -> seconds of each call.
    """

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds of a function."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, other: str) -> Values:
        """Time of one function over that of the other in the same turn: the median, the least and the most."""
        ratios = [a / b for a, b in zip(self.seconds[name], self.seconds[other], strict=True)]
        return {f"× {other}": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def in_turns(calls: Mapping[str, Callable[[], Any]], rounds: int) -> Turns:
    """Calls each function once, then times them one after the other, `rounds` times."""
    for call in calls.values():
        jax.block_until_ready(call())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    return Turns(seconds)

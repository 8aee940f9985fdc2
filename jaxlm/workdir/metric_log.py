"""Metrics of a training as JSON lines and TensorBoard events."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from jaxlm.support.files import write_atomically


class MetricLog:
    """Writes metrics as lines of `metrics.jsonl` and as TensorBoard events.

    Args:
        workdir: folder of the training.
        start: step from which training continues; earlier entries of later steps are removed.
    """

    def __init__(self, workdir: Path, start: int):
        self.path = workdir / "metrics.jsonl"
        lines = [line for line in _json_lines(self.path) if line["step"] <= start]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        self.file = self.path.open("a")
        self.board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, kind: str, values: dict[str, float]) -> None:
        rounded = {key: float(value) for key, value in values.items() if np.isfinite(value)}
        self.file.write(json.dumps({"step": step, "kind": kind, **rounded}) + "\n")
        self.file.flush()
        for key, value in rounded.items():
            self.board.add_scalar(f"{kind}/{key}", value, step)

    def close(self) -> None:
        self.file.close()
        self.board.close()


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that an interruption cut short

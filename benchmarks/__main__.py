"""Runs one measurement: python -m benchmarks NAME [--json=FILE] …; without a name it lists them.

Every measurement prints a table, a line at a time, and writes it to the JSON file.
"""

import dataclasses
import difflib
import importlib
import sys
from pathlib import Path
from typing import Any

from benchmarks.table import Table
from jaxlm.commands import options
from jaxlm.support.program import one_sentence, quiet_logs, split_commas

NAMES = {
    "step": "time and memory of the LDEQ's training step by gradient; beside PyTorch",
    "memory": "compiled memory of the paper's training step by number of solver steps",
    "overhead": "time of Anderson steps over that of the cell alone",
    "adjoint": "time of adjoint steps with the package's convolution and without it",
    "gradients": "cosine and error of each gradient of a trained LDEQ",
    "equilibria": "evaluations, tolerances and uniqueness of a trained LDEQ's equilibria",
    "energy": "how well Eq. (8) of the LDEQ is minimised on videos",
    "cuts": "how scene cuts are told from occluders and motion",
    "video": "frames a second of RwR and frame by frame",
    "hourglass": "time and memory of Adaptive Wing's training step",
    "reinit": "sizes, speed and training step of progressive re-initialisation; beside PyTorch",
    "tddfa": "losses, meta-joint rounds, sizes and speed of 3DDFA_V2; beside PyTorch",
    "start": "time from the command to the overlay of one picture",
    "picture": "what a picture's time goes into, and what each part brings",
    "pose": "errors of the head pose of a model's landmarks",
    "photographs": "landmarks on whole photographs, detector included",
    "detectors": "faces found by each detector",
    "export": "accuracy and latency of the exports of every system",
    "pipeline": "augmented crops a second of a config",
    "faults": "which faults a training and its files survive: kills, signals, locks, damage, threads",
    "gpu": "everything on one GPU in ten minutes",
}


def usage() -> str:
    """The measurements, a line each."""
    lines = [f"  {name:<12}{text}" for name, text in NAMES.items()]
    return "\n".join(["Usage: python -m benchmarks NAME [--json=FILE] …; NAME --help says more.", "", *lines])


def main(argv: list[str]) -> None:
    """Runs the measurement that the first word names; a user's mistake ends with one sentence and exit status 2."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return
    name, *words = argv
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES) or [*NAMES]
        sys.exit(f"Error: there is no benchmark {name!r}; choose one of {', '.join(near)}.")
    files = [word.partition("=")[2] for word in words if word.startswith("--json=")]
    words = [word for word in words if not word.startswith("--json=")]
    quiet_logs()
    with one_sentence():
        module, chosen = parse(name, words)
        module.main(chosen, Table(Path(files[-1]).expanduser() if files else None))


def parse(name: str, words: list[str]) -> tuple[Any, Any]:
    """Module of a measurement, and its options; lists may be given with commas."""
    module = importlib.import_module(f"benchmarks.{name}")
    given = options.parse(module, name, words, program="python -m benchmarks")
    lists = {field: value for field, value in vars(given).items() if isinstance(value, tuple)}
    words_of = {field: value for field, value in lists.items() if all(isinstance(item, str) for item in value)}
    return module, dataclasses.replace(given, **{field: tuple(split_commas(v)) for field, v in words_of.items()})


if __name__ == "__main__":
    main(sys.argv[1:])

"""Time of the small LDEQ's training step by gradient: python -m benchmarks step [--config=quickstart]

Steps are timed in turns in one run, and compared with the Jacobian-free step of the same turn. Solvers take all of
--steps steps forward and, for implicit gradients, backward. `--rows` takes the rows of `jaxlm ablation
--table=ldeq_gradient` instead; those that solve to the tolerance take --steps steps. `--pytorch` compares with the same
steps in PyTorch (`torch_peers.py`), in turns as well, each library with all cores while the other rests. As in `jaxlm
train`, the CPU is split into `train.cpu_devices`.
"""

import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring import Peer, TrainingStep, random_batch, seconds_of
from benchmarks.table import Table, in_turns
from jaxlm import systems
from jaxlm.config import load_config_file
from jaxlm.support.program import split_cpu
from jaxlm.systems.ldeq.tables import TABLES
from jaxlm.systems.tables import apply_row

GRADIENTS = ("jacobian_free", "implicit", "phantom", "unrolled", "explicit")
COMPARED = ("jacobian_free", "implicit", "unrolled")  # with PyTorch


@dataclasses.dataclass(frozen=True)
class Options:
    name: str = "quickstart"
    """Config of an LDEQ."""
    steps: int = 4
    """Solver steps."""
    rounds: int = 7
    """Turns; medians are printed."""
    rows: bool = False
    """Rows of the table ldeq_gradient instead of the gradients alone."""
    pytorch: bool = False
    """Compare with PyTorch."""


def config_of(options: Options, gradient: str) -> Any:
    config: Any = load_config_file(options.name)
    config.solver.update(name="anderson", tol=0.0, max_steps=options.steps)
    config.adjoint.update(name="anderson", tol=0.0, max_steps=options.steps)
    config.model.explicit = gradient == "explicit"
    config.gradient = "implicit" if gradient == "explicit" else gradient
    return config


def config_of_row(options: Options, row: str) -> Any:
    config: Any = load_config_file(options.name)
    apply_row(row, TABLES["ldeq_gradient"].rows[row], config)
    for solver in (config.solver, config.adjoint):
        solver.update(tol=0.0, max_steps=min(options.steps, solver.max_steps))
    return config


def step_of(config: Any) -> TrainingStep:
    system = systems.build(config)
    step = TrainingStep(system, random_batch(config), loop_steps=system.loop_steps)
    step.compile()
    return step


def main(options: Options, table: Table) -> None:
    split_cpu(config_of(options, "implicit").train.cpu_devices)
    names = TABLES["ldeq_gradient"].rows if options.rows else GRADIENTS
    make = config_of_row if options.rows else config_of
    steps = {name: step_of(make(options, name)) for name in names}
    turns = in_turns({name: step.call for name, step in steps.items()}, options.rounds)
    table.title(f"{options.name}, {options.steps} steps")
    for name, step in steps.items():
        times = {"ms": 1e3 * turns.median(name), **turns.ratio(name, "jacobian_free")}
        table.add(name, {**times, "MiB": step.memory() / 2**20, "s to compile": step.compilation})
    if options.pytorch:
        compare_with_pytorch(options, table)


def compare_with_pytorch(options: Options, table: Table) -> None:
    """Images a second of both libraries: medians over turns, and their ratio."""
    for gradient in COMPARED:
        config = config_of(options, gradient)
        step = step_of(config)
        with tempfile.TemporaryDirectory() as folder:
            peer = Peer("ldeq", config, Path(folder, "log"))
            peer.wait()
            ours, theirs = [], []
            for _ in range(options.rounds):
                found = peer.measure()
                if "images/s" not in found:
                    raise ValueError(f"PyTorch: {found['not measured']}")
                theirs.append(found["images/s"])
                ours.append(config.train.batch_size / seconds_of(step.call))
            peer.process.kill()
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        values = {"images/s": statistics.median(ours), "images/s of PyTorch": statistics.median(theirs)}
        values |= {"× PyTorch": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        table.add(f"{gradient}, beside PyTorch", values)

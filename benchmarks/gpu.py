"""Speed and memory of everything on one GPU, in ten minutes: python -m benchmarks gpu --data=/data/faces

Prints a table row by row and writes the JSON file --out after each line of it, so that a run that is cut off has
measured something. A row that is complete in the file is not measured again; `--minutes=0` prints the file. A row that
is not begun within --minutes is left out. Compiled programs, and the algorithms that the compiler has chosen by trying
them out, are kept in --cache for the next run; without it, most of the time goes into compilation.

Inputs and parameters are random, and the solvers' tolerance is zero, so that they take all their steps. MFU is the
model's own arithmetic (two operations for each multiply-add of its convolutions and matrix products), over the rate of
a large bfloat16 matrix product measured in the same run. Memory is what the compiler plans for a step with its
arguments. PyTorch, if it is installed, runs the same networks in a program of its own (`benchmarks/torch_peers.py`) and
is timed while JAX rests.

The last row trains `ldeq_faces68:gpu` for the time that is left, if --data is the folder that this config reads.

`--plan` needs no GPU, but `jax[cuda13]`: it compiles every program for an H100 and prints its memory and its number of
kernels.
"""

import os
from collections.abc import Sequence
from pathlib import Path

# Leaves memory to PyTorch.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.55")

import jax

from benchmarks.gpu_rows import MEASUREMENTS, TOGETHER
from benchmarks.gpu_run import Budgeted, Options, Run
from benchmarks.measuring import GIB, compile_all, compile_for_h100
from benchmarks.table import Table
from jaxlm.support.program import make_folder

__all__ = ["Options", "main"]


def plan(run: Run) -> None:
    """Compiles the programs of the rows for an H100, on any machine, and prints what the compiler plans."""
    compile_for_h100()
    for name in run.options.rows or [name for name in MEASUREMENTS if name not in ("device", "pipeline", "train")]:
        for number, program in enumerate(MEASUREMENTS[name](run)[0]):
            program.compile()
            memory = f"{program.memory() / GIB:8.3f} GiB"
            print(
                f"{name:<14}{number:>3}{memory},{program.kernels():>6} kernels,{program.compilation:6.0f} s", flush=True
            )


def main(options: Options, given: Table) -> None:
    """Measures the chosen rows that the file of --out lacks."""
    if given.path is not None:
        raise ValueError("This table has a file of its own: name it with --out instead of --json.")
    run = Run(options)
    unknown = set(options.rows) - set(MEASUREMENTS)
    if unknown:
        raise ValueError(f"--rows has {', '.join(sorted(unknown))}; the rows are {', '.join(MEASUREMENTS)}.")
    if options.plan:
        return plan(run)
    jax.config.update("jax_compilation_cache_dir", str(make_folder(options.cache)))
    make_folder(Path(options.out).expanduser().parent)
    table = Budgeted(Path(options.out).expanduser(), options.minutes)
    for line in table.lines:
        table.show(line)
    if options.minutes == 0:
        return None
    card, here = table.value("device", "card"), jax.devices()[0].device_kind
    if card not in (None, here):
        raise ValueError(f"{table.path} was measured on {card}, not on {here}; choose another --out.")
    try:
        failed = measure(run, table, options.rows or list(MEASUREMENTS))
    finally:
        for peer in run.peers.values():
            peer.process.kill()
    if failed:
        raise ValueError(f"These rows failed: {', '.join(failed)}.")
    return None


def measure(run: Run, table: Budgeted, chosen: Sequence[str]) -> list[str]:
    """Measures the chosen rows; returns those that failed."""
    failed, prepared = [], {}
    for name in chosen:
        if name in table.complete:
            continue
        if table.seconds_left() < 60 and not run.options.smoke:
            print(f"{name}: left out, as {table.minutes:g} minutes are nearly over")
            continue
        try:
            for other in TOGETHER if name in TOGETHER else (name,):
                if other in chosen and other not in prepared and other not in table.complete:
                    programs, prepared[other] = MEASUREMENTS[other](run)
                    compile_all(programs)
            for line, values in prepared.pop(name)(table):
                table.add(line, values)
            table.finish(name)
        except Exception as error:  # a later row may still work
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            failed.append(name)
    return failed

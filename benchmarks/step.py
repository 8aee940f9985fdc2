"""Time of the small LDEQ's training step by gradient: python benchmarks/step.py [--config=quickstart]

Steps are timed in turns in one run, and compared with the Jacobian-free step of the same turn. Solvers take all of
--steps steps forward and, for implicit gradients, backward. `--rows` takes the rows of `jaxlm ablation
--table=ldeq_gradient` instead; those that solve to the tolerance take --steps steps. `--pytorch` compares with the same
steps in PyTorch (`torch_peers.py`), in turns as well, each library with all cores while the other rests. As in `jaxlm
train`, the CPU is split into `train.cpu_devices`.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from measuring import Peer, TrainingStep, random_batch, seconds_of

from jaxlm import systems
from jaxlm.config import load_config_file
from jaxlm.support.program import split_cpu
from jaxlm.systems.ldeq.tables import TABLES
from jaxlm.systems.tables import apply_row

CONFIG = flags.DEFINE_string("config", "quickstart", "Config of an LDEQ.")
STEPS = flags.DEFINE_integer("steps", 4, "Solver steps.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns; medians are printed.")
ROWS = flags.DEFINE_bool("rows", False, "Rows of the table ldeq_gradient instead of the gradients alone.")
PYTORCH = flags.DEFINE_bool("pytorch", False, "Compare with PyTorch.")
GRADIENTS = ("jacobian_free", "implicit", "phantom", "unrolled", "explicit")
COMPARED = ("jacobian_free", "implicit", "unrolled")  # with PyTorch


def config_of(gradient: str) -> Any:
    config: Any = load_config_file(CONFIG.value)
    config.solver.update(name="anderson", tol=0.0, max_steps=STEPS.value)
    config.adjoint.update(name="anderson", tol=0.0, max_steps=STEPS.value)
    config.model.explicit = gradient == "explicit"
    config.gradient = "implicit" if gradient == "explicit" else gradient
    return config


def config_of_row(name: str) -> Any:
    config: Any = load_config_file(CONFIG.value)
    apply_row(name, TABLES["ldeq_gradient"].rows[name], config)
    for solver in (config.solver, config.adjoint):
        solver.update(tol=0.0, max_steps=min(STEPS.value, solver.max_steps))
    return config


def step_of(config: Any) -> TrainingStep:
    system = systems.build(config)
    return TrainingStep(system, random_batch(config), loop_steps=system.loop_steps)


def main(argv):
    del argv
    split_cpu(config_of("implicit").train.cpu_devices)
    names, make = (TABLES["ldeq_gradient"].rows, config_of_row) if ROWS.value else (GRADIENTS, config_of)
    steps = {name: step_of(make(name)) for name in names}
    for step in steps.values():
        step.compile()
        jax.block_until_ready(step.call())
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS.value):
        for name, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step.call())
            times[name].append(time.perf_counter() - start)
    print(f"{CONFIG.value}, {STEPS.value} steps, {jax.default_backend()}")
    print(f"{'gradient':<16}{'ms':>8}{'× jacobian_free':>18}{'MiB':>8}{'s to compile':>14}")
    for name, step in steps.items():
        ratio = statistics.median(a / b for a, b in zip(times[name], times["jacobian_free"], strict=True))
        milliseconds, memory = 1e3 * statistics.median(times[name]), step.memory() / 2**20
        print(f"{name:<16}{milliseconds:>8.0f}{ratio:>18.2f}{memory:>8.0f}{step.compilation:>14.1f}", flush=True)
    if PYTORCH.value:
        compare_with_pytorch({gradient: step_of(config_of(gradient)) for gradient in COMPARED})


def compare_with_pytorch(steps: dict[str, TrainingStep]) -> None:
    """Prints images a second of both libraries: medians over turns, and the median of their ratio."""
    print(f"{'images/s':<16}{'jaxlm':>8}{'PyTorch':>10}{'ratio':>8}{'least':>8}{'most':>8}")
    for gradient in COMPARED:
        steps[gradient].compile()
        config = config_of(gradient)
        with tempfile.TemporaryDirectory() as folder:
            peer = Peer("ldeq", config, Path(folder, "log"))
            peer.wait()
            ours, theirs = [], []
            for _ in range(ROUNDS.value):
                found = peer.measure()
                if "images/s" not in found:
                    raise SystemExit(f"PyTorch: {found['not measured']}")
                theirs.append(found["images/s"])
                ours.append(config.train.batch_size / seconds_of(steps[gradient].call))
            peer.process.kill()
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        values = statistics.median(ours), statistics.median(theirs)
        spread = statistics.median(ratios), min(ratios), max(ratios)
        print(f"{gradient:<16}{values[0]:>8.0f}{values[1]:>10.0f}{spread[0]:>8.2f}{spread[1]:>8.2f}{spread[2]:>8.2f}")


if __name__ == "__main__":
    app.run(main)

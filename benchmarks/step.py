"""Time of the small LDEQ's training step by gradient: python benchmarks/step.py [--config=quickstart]

Steps are timed in turns in one run, and compared with the Jacobian-free step of the same turn. Solvers take all of
--steps steps forward and, for implicit gradients, backward.
"""

import statistics
import time
from typing import Any

import jax
from absl import app, flags
from measuring import TrainingStep, random_batch

from jaxlm import systems
from jaxlm.config import load_config_file

CONFIG = flags.DEFINE_string("config", "quickstart", "Config of an LDEQ.")
STEPS = flags.DEFINE_integer("steps", 4, "Solver steps.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns; medians are printed.")
GRADIENTS = ("jacobian_free", "implicit", "phantom", "unrolled", "explicit")


def step_of(gradient: str) -> TrainingStep:
    config: Any = load_config_file(CONFIG.value)
    config.solver.update(name="anderson", tol=0.0, max_steps=STEPS.value)
    config.adjoint.update(name="anderson", tol=0.0, max_steps=STEPS.value)
    config.model.explicit = gradient == "explicit"
    config.gradient = "implicit" if gradient == "explicit" else gradient
    system = systems.build(config)
    return TrainingStep(system, random_batch(config), loop_steps=system.loop_steps)


def main(argv):
    del argv
    steps = {gradient: step_of(gradient) for gradient in GRADIENTS}
    for step in steps.values():
        step.compile()
        jax.block_until_ready(step.call())
    times: dict[str, list[float]] = {gradient: [] for gradient in GRADIENTS}
    for _ in range(ROUNDS.value):
        for gradient, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step.call())
            times[gradient].append(time.perf_counter() - start)
    print(f"{CONFIG.value}, {STEPS.value} steps, {jax.default_backend()}")
    print(f"{'gradient':<16}{'ms':>8}{'× jacobian_free':>18}{'MiB':>8}{'s to compile':>14}")
    for gradient, step in steps.items():
        ratio = statistics.median(a / b for a, b in zip(times[gradient], times["jacobian_free"], strict=True))
        milliseconds, memory = 1e3 * statistics.median(times[gradient]), step.memory() / 2**20
        print(f"{gradient:<16}{milliseconds:>8.0f}{ratio:>18.2f}{memory:>8.0f}{step.compilation:>14.1f}")


if __name__ == "__main__":
    app.run(main)

"""Overhead of the Anderson solver over the cell: python benchmarks/overhead.py [--preset=paper]

Times n Anderson steps and n plain applications of the same cell, alternately in one run, and prints the median ratio.
Target: at most 1.15 for the paper's cell at 64×64 and 6 steps.
"""

import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags

from jaxlm.solvers import anderson
from jaxlm.systems.ldeq.network import LDEQ, PRESETS

PRESET = flags.DEFINE_string("preset", "paper", "Size of the network: tiny, small or paper.")
BATCH = flags.DEFINE_integer("batch", 1, "Number of images.")
STEPS = flags.DEFINE_integer("steps", 6, "Number of steps.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Number of timed rounds.")


def main(argv):
    del argv
    model = LDEQ(98, **PRESETS[PRESET.value])
    params = model.init(jax.random.key(0))["params"]["cell"]
    x = jax.random.normal(jax.random.key(1), (BATCH.value, 64, 64, model.width))
    z0 = jnp.zeros((BATCH.value, 64, 64, 98))
    steps = STEPS.value

    def solve(params, x, z0):
        return anderson(lambda z: model.cell(z, (params, x)), z0, tol=0.0, max_steps=steps)[0]

    def apply(params, x, z0):
        return jax.lax.fori_loop(0, steps, lambda _, z: model.cell(z, (params, x)), z0)

    functions = {"anderson": jax.jit(solve), "plain": jax.jit(apply)}
    times = {name: [] for name in functions}
    for function in functions.values():
        jax.block_until_ready(function(params, x, z0))
    for _ in range(REPEATS.value):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(params, x, z0))
            times[name].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(times["anderson"], times["plain"], strict=True)]
    for name, values in times.items():
        print(f"{name:<10}{statistics.median(values):>9.3f} s for {steps} steps")
    print(f"ratio     {statistics.median(ratios):>9.3f}  (median; {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    app.run(main)

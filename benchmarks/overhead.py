"""Overhead of the Anderson solver over the cell: python -m benchmarks overhead [--preset=paper]

Times n Anderson steps and n plain applications of the same cell in turns, and prints the median ratio. Target: at most
1.15 for the paper's cell at 64×64 and 6 steps.
"""

import dataclasses

import jax
import jax.numpy as jnp

from benchmarks.table import Table, in_turns
from jaxlm.solvers import anderson
from jaxlm.systems.ldeq.network import LDEQ, PRESETS


@dataclasses.dataclass(frozen=True)
class Options:
    preset: str = "paper"
    """Size of the network: tiny, small or paper."""
    batch: int = 1
    """Number of images."""
    steps: int = 6
    """Number of steps."""
    rounds: int = 5
    """Turns; medians are printed."""


def main(options: Options, table: Table) -> None:
    model, steps = LDEQ(98, **PRESETS[options.preset]), options.steps
    params = model.init(jax.random.key(0))["params"]["cell"]
    x = jax.random.normal(jax.random.key(1), (options.batch, 64, 64, model.width))
    z0 = jnp.zeros((options.batch, 64, 64, 98))

    @jax.jit
    def solve(params, x, z0):
        return anderson(lambda z: model.cell(z, (params, x)), z0, tol=0.0, max_steps=steps)[0]

    @jax.jit
    def apply(params, x, z0):
        return jax.lax.fori_loop(0, steps, lambda _, z: model.cell(z, (params, x)), z0)

    turns = in_turns({"Anderson": lambda: solve(params, x, z0), "cell": lambda: apply(params, x, z0)}, options.rounds)
    table.title(f"{options.preset}, batch {options.batch}, {steps} steps")
    for name in turns.seconds:
        table.add(name, {"s": turns.median(name), **turns.ratio(name, "cell")})

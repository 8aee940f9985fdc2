"""Compiled memory of a full training step by number of solver steps: python -m benchmarks memory [--preset=paper]

Prints XLA's peak of temporaries for implicit and for unrolled gradients. The step is compiled but not run, so a laptop
can measure the paper's network. The memory of implicit gradients must not depend on the number of steps (largest over
smallest at most 1.02); that of unrolled gradients must grow. Anderson keeps min(6, steps) iterates, so its memory is
constant from 6 steps on.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.table import Table
from jaxlm import systems
from jaxlm.config import load_config_file

ROWS = {
    "implicit": ("implicit", "fixed_point_iteration"),
    "implicit, Anderson": ("implicit", "anderson"),
    "unrolled": ("unrolled", "fixed_point_iteration"),
}


@dataclasses.dataclass(frozen=True)
class Options:
    preset: str = "paper"
    """Size of the network: tiny, small or paper."""
    batch: int = 2
    """Number of images in a step."""
    size: int = 256
    """Side of the images in pixels."""
    steps: tuple[int, ...] = (2, 8, 32, 64)
    """Numbers of forward and adjoint solver steps to compare."""
    rows: tuple[str, ...] = tuple(ROWS)
    """Gradients to measure."""


def temporary_bytes(options: Options, gradient: str, solver: str, steps: int) -> int:
    config: Any = load_config_file("ldeq_wflw")
    config.model.preset, config.model.dtype, config.gradient = options.preset, "float32", gradient
    config.solver.name = config.adjoint.name = solver
    config.solver.max_steps = config.adjoint.max_steps = steps
    system = systems.build(config)
    state = jax.eval_shape(system.init, jax.random.key(0))
    size, batch = options.size, options.batch
    shapes = {
        "image": jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8),
        "landmarks": jax.ShapeDtypeStruct((batch, 98, 2), jnp.float32),
        "mask": jax.ShapeDtypeStruct((batch, 98), jnp.bool_),
        "normalizer": jax.ShapeDtypeStruct((batch,), jnp.float32),
    }
    step = jax.jit(system.train_step, donate_argnums=0)
    rng = jax.eval_shape(lambda: jax.random.key(0))
    analysis: Any = step.lower(state, shapes, rng).compile().memory_analysis()
    return analysis.temp_size_in_bytes


def main(options: Options, table: Table) -> None:
    table.title(f"{options.preset}, batch {options.batch}, {options.size} pixels: MiB of temporaries by solver steps")
    for name in options.rows:
        if name not in ROWS:
            raise ValueError(f"There is no row {name!r}; choose of {', '.join(ROWS)}.")
        found = [temporary_bytes(options, *ROWS[name], steps) for steps in options.steps]
        values = {f"MiB of {steps}": size / 2**20 for steps, size in zip(options.steps, found, strict=True)}
        table.add(name, {**values, "× most over least": max(found) / min(found)})

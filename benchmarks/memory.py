"""Compiled memory of a full training step by number of solver steps: python benchmarks/memory.py [--preset=paper]

Prints XLA's peak of temporaries for implicit and for unrolled gradients. The step is compiled but not run, so a laptop
can measure the paper's network. The memory of implicit gradients must not depend on the number of steps (largest over
smallest at most 1.02); that of unrolled gradients must grow. Anderson keeps min(6, steps) iterates, so its memory is
constant from 6 steps on.
"""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags

from jaxlm import systems

PRESET = flags.DEFINE_string("preset", "paper", "Size of the network: tiny, small or paper.")
BATCH = flags.DEFINE_integer("batch", 2, "Number of images in a step.")
SIZE = flags.DEFINE_integer("size", 256, "Side of the images in pixels.")
STEPS = flags.DEFINE_list("steps", ["2", "8", "32", "64"], "Numbers of forward and adjoint solver steps to compare.")


def load_config(name: str, variant: str = ""):
    path = Path(__file__).parents[1] / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def temporary_bytes(gradient: str, solver: str, steps: int) -> int:
    config = load_config("ldeq_wflw")
    config.model.preset, config.model.dtype, config.gradient = PRESET.value, "float32", gradient
    config.solver.name = config.adjoint.name = solver
    config.solver.max_steps = config.adjoint.max_steps = steps
    system = systems.build(config)
    state = jax.eval_shape(system.init, jax.random.key(0))
    size, batch = SIZE.value, BATCH.value
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


def main(argv):
    del argv
    steps = [int(s) for s in STEPS.value]
    print(f"{PRESET.value}, batch {BATCH.value}, {SIZE.value} pixels, {jax.default_backend()}: temporaries in MiB")
    print(f"{'solver steps':<14}" + "".join(f"{s:>10}" for s in steps) + f"{'max/min':>10}")
    plain = "fixed_point_iteration"
    for name, gradient, solver in (
        ("implicit", "implicit", plain),
        ("with Anderson", "implicit", "anderson"),
        ("unrolled", "unrolled", plain),
    ):
        found = [temporary_bytes(gradient, solver, s) for s in steps]
        cells = "".join(f"{b / 2**20:>10.1f}" for b in found)
        print(f"{name:<14}{cells}{max(found) / min(found):>10.3f}", flush=True)


if __name__ == "__main__":
    app.run(main)

"""Cost of the Adaptive Wing loss and of rematerialisation in a full training step: python benchmarks/hourglass.py

Times the step with MSE, and with Adaptive Wing and its weight map, alternately in one run. Prints the median ratio of
the two times (target: at most 1.05), and memory and speed with and without `model.remat`. "Kept" is the memory that the
forward pass keeps for the backward pass; "temporaries" is the memory that XLA plans for the whole step. On a CPU the
plan comes from the scheduler that minimises memory. Remat does not make it smaller there, because the second
computation of a stage is scheduled early.
"""

import os
import statistics
import time
from typing import Any

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_enable_concurrency_optimized_scheduler=false"

import jax
import numpy as np
from absl import app, flags
from measuring import random_batch
from ml_collections import config_flags

from jaxlm import systems
from jaxlm.networks.blocks import count_parameters
from jaxlm.systems.awing.system import make_model
from jaxlm.systems.awing.tables import FACES
from jaxlm.systems.tables import rows_of

CONFIG = config_flags.DEFINE_config_file("config", "configs/awing_wflw.py", "Config of network, loss and image size.")
BATCH = flags.DEFINE_integer("batch", 2, "Number of images in a step.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Number of timed rounds.")
DTYPE = flags.DEFINE_string("dtype", "float32", "Type of the activations: float32 or bfloat16.")


def variant(row, *, remat=False):
    """Config with the loss of a row of Table 7 and the model of --config."""
    config = CONFIG.value.copy_and_resolve_references()
    rows_of(FACES)[row](config)
    config.model.update(CONFIG.value.model.to_dict() | dict(dtype=DTYPE.value, remat=remat))
    config.train.batch_size = BATCH.value
    return config


class Step:
    """Compiled training step with its own state and times."""

    def __init__(self, config):
        self.batch, self.times = random_batch(config), []
        system = systems.build(config)
        shapes = jax.eval_shape(system.init, jax.random.key(0))
        # The values do not change the time, and compiling the system's init would take a minute.
        self.state = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, leaf.dtype), shapes)
        lowered = jax.jit(system.train_step, donate_argnums=0).lower(self.state, self.batch, jax.random.key(0))
        self.compiled = lowered.compile()
        self.parameters = count_parameters(shapes.params)
        self.kept = kept_bytes(config, shapes, self.batch)

    def run(self):
        start = time.perf_counter()
        self.state, logs = self.compiled(self.state, self.batch, jax.random.key(0))
        jax.block_until_ready(logs)
        self.times.append(time.perf_counter() - start)

    def line(self):
        memory: Any = self.compiled.memory_analysis()
        cost: Any = self.compiled.cost_analysis()
        seconds = statistics.median(self.times)
        temporaries = memory.temp_size_in_bytes / 2**20
        return (
            f"{seconds:>8.3f} s{BATCH.value / seconds:>9.2f} img/s{cost['flops'] / 1e9:>10.1f} GFLOP"
            f"{temporaries:>10.0f} MiB temporaries{self.kept / 2**20:>10.0f} MiB kept"
        )


def kept_bytes(config, shapes, batch):
    """Bytes that the network's forward pass keeps for the backward pass, without the parameters."""
    model = make_model(config)

    def forward(params):
        variables = {"params": params, "batch_stats": shapes.batch_stats}
        images = batch["image"].astype(np.float32)
        return jax.vjp(
            lambda p: model.apply({**variables, "params": p}, images, True, mutable=["batch_stats"])[0], params
        )[1]

    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes.batch_stats)
    shapes = shapes._replace(batch_stats=zeros)
    residuals = jax.tree.leaves(jax.eval_shape(forward, shapes.params))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in residuals) - 4 * count_parameters(shapes.params)


def main(argv):
    del argv
    configs = {
        "MSE": variant("mse"),
        "AWing + weight map": variant("aw_wm"),
        "the same with remat": variant("aw_wm", remat=True),
    }
    steps = {name: Step(config) for name, config in configs.items()}
    for step in steps.values():
        step.run()
        step.times.clear()
    for _ in range(REPEATS.value):
        for step in steps.values():
            step.run()
    plain, weighted = steps["MSE"].times, steps["AWing + weight map"].times
    ratios = [a / b for a, b in zip(weighted, plain, strict=True)]
    print(
        f"{steps['MSE'].parameters / 1e6:.2f} M parameters, batch {BATCH.value}, {DTYPE.value}, {jax.default_backend()}"
    )
    for name, step in steps.items():
        print(f"{name:<20}{step.line()}")
    print(f"AWing / MSE ratio {statistics.median(ratios):.3f} (median; {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    app.run(main)

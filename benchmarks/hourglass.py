"""Cost of the Adaptive Wing loss and of rematerialisation in a full training step: python -m benchmarks hourglass

Times the step with MSE, and with Adaptive Wing and its weight map, alternately in one run. Prints the median ratio of
the two times (target: at most 1.05), and memory and speed with and without `model.remat`. "Kept" is the memory that the
forward pass keeps for the backward pass; "temporaries" is the memory that XLA plans for the whole step. On a CPU the
plan comes from the scheduler that minimises memory. Remat does not make it smaller there, because the second
computation of a stage is scheduled early.
"""

import dataclasses
import os
from typing import Any

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_enable_concurrency_optimized_scheduler=false"

import jax
import numpy as np

from benchmarks.measuring import random_batch
from benchmarks.table import Table, in_turns
from jaxlm import systems
from jaxlm.config import load_config_file
from jaxlm.networks.blocks import count_parameters
from jaxlm.systems.awing.system import make_model
from jaxlm.systems.awing.tables import FACES
from jaxlm.systems.tables import rows_of


@dataclasses.dataclass(frozen=True)
class Options:
    name: str = "awing_wflw"
    """Config of network, loss and image size."""
    batch: int = 2
    """Number of images in a step."""
    rounds: int = 5
    """Turns; medians are printed."""
    dtype: str = "float32"
    """Type of the activations: float32 or bfloat16."""


def variant(options, row, *, remat=False):
    """Config with the loss of a row of Table 7 and the model of the options' config."""
    config, model = load_config_file(options.name), load_config_file(options.name).model
    rows_of(FACES)[row](config)
    config.model.update(model.to_dict() | dict(dtype=options.dtype, remat=remat))
    config.train.batch_size = options.batch
    return config


class Step:
    """Compiled training step with its own state."""

    def __init__(self, config):
        self.batch = random_batch(config)
        system = systems.build(config)
        shapes = jax.eval_shape(system.init, jax.random.key(0))
        # The values do not change the time, and compiling the system's init would take a minute.
        self.state = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, leaf.dtype), shapes)
        lowered = jax.jit(system.train_step, donate_argnums=0).lower(self.state, self.batch, jax.random.key(0))
        self.compiled = lowered.compile()
        self.parameters = count_parameters(shapes.params)
        self.kept = kept_bytes(config, shapes, self.batch)

    def run(self):
        self.state, logs = self.compiled(self.state, self.batch, jax.random.key(0))
        return logs

    def values(self):
        memory: Any = self.compiled.memory_analysis()
        cost: Any = self.compiled.cost_analysis()
        return {
            "GFLOP": cost["flops"] / 1e9,
            "MiB of temporaries": memory.temp_size_in_bytes / 2**20,
            "MiB kept": self.kept / 2**20,
        }


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


def main(options: Options, table: Table) -> None:
    configs = {
        "MSE": variant(options, "mse"),
        "AWing + weight map": variant(options, "aw_wm"),
        "the same with remat": variant(options, "aw_wm", remat=True),
    }
    steps = {name: Step(config) for name, config in configs.items()}
    turns = in_turns({name: step.run for name, step in steps.items()}, options.rounds)
    table.title(f"{steps['MSE'].parameters / 1e6:.2f} M parameters, batch {options.batch}, {options.dtype}")
    for name, step in steps.items():
        seconds = turns.median(name)
        table.add(name, {"img/s": options.batch / seconds, "s": seconds, **turns.ratio(name, "MSE"), **step.values()})

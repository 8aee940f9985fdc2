"""Size and speed of progressive re-initialisation: python -m benchmarks reinit

- sizes: parameters and multiply-adds of B1, GSR and G&LSR, compared with Table 7 of Shao et al., TPAMI 2021, whose
  "FLOPs" are multiply-adds.
- speed: crop to landmarks, one picture at a time, jitted. Target: 100 frames/s on one core (run under `taskset -c 0`).
- step: training step of the small network, compared with PyTorch's (extra `torch`), timed in turns.
  Target: 1.5 times PyTorch's time.
- depthwise: depthwise convolution with the package's gradient, compared with XLA's grouped convolution.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.table import Table, in_turns
from jaxlm.config import load_config_file
from jaxlm.networks import convolution
from jaxlm.networks.blocks import count_parameters
from jaxlm.networks.mobilenet import SMALL
from jaxlm.networks.multiply_adds import count_macs
from jaxlm.systems.reinit.network import ShapeRegressor
from jaxlm.systems.reinit.system import make_model

PARTS = ("sizes", "speed", "step", "depthwise")


@dataclasses.dataclass(frozen=True)
class Options:
    what: tuple[str, ...] = PARTS
    """Measurements to run."""
    batch: int = 16
    """Number of images in a training step."""
    rounds: int = 5
    """Turns; medians are printed."""


PAPER = {
    "b1": (335.4e3, 48.5e6),
    "gsr": (593.2e3, 52.6e6),
    "glsr": (1.83e6, 57.7e6),
    "medium": (2.91e6, 0.27e9),
    "large": (24.39e6, 5.28e9),
}


def model_of(variant):
    return make_model(load_config_file(f"reinit_300w.py:{variant}"))


def sizes(options, table):
    del options
    table.title("Sizes, relative to Table 7 of the paper")
    for name, (parameters, macs) in PAPER.items():
        model, images = model_of(name), jnp.zeros((1, 256, 256, 3))
        variables: Any = jax.eval_shape(model.init, jax.random.key(0), images)
        ours, flops = count_parameters(variables["params"]), count_macs(model.apply, variables, images)
        values = {"K parameters": ours / 1e3, "% above the paper's": 100 * (ours / parameters - 1)}
        values |= {"M multiply-adds": flops / 1e6, "% above the paper's multiply-adds": 100 * (flops / macs - 1)}
        table.add(f"size of {name}", values)


def initialised(model, images):
    # The values do not change the time.
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, leaf.dtype), shapes)


def speed(options, table):
    images = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (1, 256, 256, 3)), jnp.float32)
    calls = {}
    for name in ("b1", "gsr", "glsr"):
        model = model_of(name)
        variables, apply = initialised(model, images), model.apply
        predict = jax.jit(lambda variables, images, apply=apply: apply(variables, images).landmarks)
        calls[name] = lambda predict=predict, variables=variables: predict(variables, images)
    turns = in_turns(calls, 20 * options.rounds)
    table.title("One picture at a time")
    for name in calls:
        table.add(f"speed of {name}", {"frames/s": 1 / turns.median(name), "best": 1 / min(turns.seconds[name])})


def step(options, table):
    model, batch = ShapeRegressor("small", 68), options.batch
    images = jnp.asarray(np.random.default_rng(0).normal(size=(batch, 256, 256, 3)), jnp.float32)
    variables: Any = jax.jit(lambda key: model.init(key, images, True))(jax.random.key(0, impl="rbg"))
    optimizer = optax.sgd(0.01, 0.9)

    @jax.jit
    def ours(params, statistics, state):
        def loss(params):
            shape, updated = model.apply(
                {"params": params, "batch_stats": statistics}, images, True, mutable=["batch_stats"]
            )
            return jnp.abs(shape).mean(), updated["batch_stats"]

        gradient, statistics = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), statistics, state

    start = variables["params"], variables["batch_stats"], optimizer.init(variables["params"])
    functions = {"jaxlm": lambda: jax.block_until_ready(ours(*start))}
    for layout in ("contiguous", "channels last"):
        torch_step = make_torch_step(batch, channels_last=layout != "contiguous")
        if torch_step is not None:
            functions[f"PyTorch, {layout}"] = torch_step
    turns = in_turns(functions, options.rounds)
    table.title(f"Training step of {batch} images")
    for name in functions:
        table.add(f"step, {name}", {"ms": 1e3 * turns.median(name), **turns.ratio(name, "jaxlm")})


def make_torch_step(batch, *, channels_last):
    """Training step of the same network in PyTorch, or None if PyTorch is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
        from torch import nn as tnn  # pyright: ignore[reportMissingImports]
    except ImportError:
        print("PyTorch is not installed: pip install 'jaxlm[torch]'")
        return None

    def conv(inputs, outputs, kernel, stride=1, groups=1):
        pad = (kernel - 1) // 2
        return [tnn.Conv2d(inputs, outputs, kernel, stride, pad, groups=groups, bias=False), tnn.BatchNorm2d(outputs)]

    class Residual(tnn.Sequential):
        def forward(self, input):
            output = super().forward(input)
            return input + output if input.shape == output.shape else output

    layers: list[Any] = [*conv(3, SMALL.stem, 3, 2), tnn.ReLU()]
    inputs = SMALL.stem
    for row in SMALL.rows:
        for repeat in range(row.repeats):
            width, stride = inputs * row.expansion, row.stride if repeat == 0 else 1
            expand = [*conv(inputs, width, 1), tnn.ReLU()] if row.expansion > 1 else []
            middle = [*conv(width, width, 3, stride, width), tnn.ReLU()]
            layers.append(Residual(*expand, *middle, *conv(width, row.features, 1)))
            inputs = row.features
    layers += [*conv(inputs, SMALL.last, 1), tnn.ReLU(), tnn.Flatten()]
    layers += [tnn.Linear(4 * SMALL.last, 256), tnn.PReLU(), tnn.Linear(256, 256), tnn.PReLU(), tnn.Linear(256, 136)]
    layout: Any = torch.channels_last if channels_last else torch.contiguous_format
    network: Any = tnn.Sequential(*layers)
    network = network.to(memory_format=layout)
    images = torch.randn(batch, 3, 256, 256).to(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)

    def step():
        optimizer.zero_grad()
        network(images).abs().mean().backward()
        optimizer.step()

    return step


def depthwise(options, table):
    rng = np.random.default_rng(0)
    convolutions = {
        "own": convolution.depthwise_convolution,
        "automatic": lambda x, kernel, stride: convolution._shifted_products(convolution._border(x), kernel, stride),
        "grouped": convolution._grouped,
    }
    table.title("Depthwise convolution, forward and backward")
    for side, channels, stride in ((64, 72, 1), (64, 72, 2), (32, 96, 1), (16, 144, 1)):
        x = jnp.asarray(rng.normal(size=(options.batch, side, side, channels)), jnp.float32)
        kernel = jnp.asarray(rng.normal(size=(3, 3, channels)), jnp.float32)
        calls = {}
        for name, convolve in convolutions.items():

            def squares(x, kernel, convolve=convolve, stride=stride):
                return jnp.square(convolve(x, kernel, stride)).sum()

            gradient = jax.jit(jax.grad(squares, argnums=(0, 1)))
            calls[name] = lambda gradient=gradient, x=x, kernel=kernel: gradient(x, kernel)
        turns = in_turns(calls, options.rounds)
        for name in calls:
            values = {"ms": 1e3 * turns.median(name), **turns.ratio(name, "own")}
            table.add(f"{options.batch}×{side}×{side}×{channels}, stride {stride}, {name}", values)


def main(options: Options, table: Table) -> None:
    for name in options.what:
        if name not in PARTS:
            raise ValueError(f"There is no part {name!r}; choose of {', '.join(PARTS)}.")
        {"sizes": sizes, "speed": speed, "step": step, "depthwise": depthwise}[name](options, table)

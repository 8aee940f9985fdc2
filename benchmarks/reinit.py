"""Size and speed of progressive re-initialisation: python benchmarks/reinit.py

- sizes: parameters and multiply-adds of B1, GSR and G&LSR, compared with Table 7 of Shao et al., TPAMI 2021, whose
  "FLOPs" are multiply-adds.
- speed: crop to landmarks, one picture at a time, jitted. Target: 100 frames/s on one core (run under `taskset -c 0`).
- step: training step of the small network, compared with PyTorch's (extra `torch`), timed alternately in one run.
  Target: 1.5 times PyTorch's time.
- depthwise: depthwise convolution with the package's gradient, compared with XLA's grouped convolution.
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from jaxlm.config import load_config_file
from jaxlm.networks import convolution
from jaxlm.networks.blocks import count_parameters
from jaxlm.networks.mobilenet import SMALL
from jaxlm.networks.multiply_adds import count_macs
from jaxlm.systems.reinit.network import ShapeRegressor
from jaxlm.systems.reinit.system import make_model

WHAT = flags.DEFINE_list("what", ["sizes", "speed", "step", "depthwise"], "Measurements to run; all by default.")
BATCH = flags.DEFINE_integer("batch", 16, "Number of images in a training step.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Number of timed rounds.")

PAPER = {
    "b1": (335.4e3, 48.5e6),
    "gsr": (593.2e3, 52.6e6),
    "glsr": (1.83e6, 57.7e6),
    "medium": (2.91e6, 0.27e9),
    "large": (24.39e6, 5.28e9),
}


def model_of(variant):
    return make_model(load_config_file(f"reinit_300w.py:{variant}"))


def sizes():
    print(f"{'':<8}{'parameters':>12}{'paper':>10}{'':>8}{'multiply-adds':>16}{'paper':>10}")
    for name, (parameters, macs) in PAPER.items():
        model, images = model_of(name), jnp.zeros((1, 256, 256, 3))
        variables: Any = jax.eval_shape(model.init, jax.random.key(0), images)
        ours, flops = count_parameters(variables["params"]), count_macs(model.apply, variables, images)
        print(
            f"{name:<8}{ours:>12,}{parameters / 1e3:>9.1f}K{ours / parameters - 1:>+8.1%}"
            f"{flops / 1e6:>15.1f}M{macs / 1e6:>9.1f}M{flops / macs - 1:>+8.1%}"
        )


def initialised(model, images):
    # The values do not change the time.
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, leaf.dtype), shapes)


def speed():
    images = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (1, 256, 256, 3)), jnp.float32)
    for name in ("b1", "gsr", "glsr"):
        model = model_of(name)
        variables = initialised(model, images)
        apply: Any = model.apply
        predict = jax.jit(lambda variables, images, apply=apply: apply(variables, images).landmarks)
        median, least = clock(lambda predict=predict, variables=variables: predict(variables, images), 100)
        print(f"{name:<8}{1 / median:>8.1f} frames/s, median of 100 (best {1 / least:.1f})")


def clock(function, repeats):
    """Median and minimum seconds of a call, without compilation."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return statistics.median(times), min(times)


def step():
    model, batch = ShapeRegressor("small", 68), BATCH.value
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
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(REPEATS.value):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - begin)
    for name, values in times.items():
        ratio = statistics.median([a / b for a, b in zip(times["jaxlm"], values, strict=True)])
        print(
            f"{name:<24}{1e3 * statistics.median(values):>8.0f} ms for {batch} images; "
            f"jaxlm takes {ratio:.2f} times as long"
        )


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


def depthwise():
    rng = np.random.default_rng(0)
    print(f"{'depthwise, forward and backward':<34}{'own':>9}{'automatic':>11}{'grouped':>10}")
    for side, channels, stride in ((64, 72, 1), (64, 72, 2), (32, 96, 1), (16, 144, 1)):
        x = jnp.asarray(rng.normal(size=(BATCH.value, side, side, channels)), jnp.float32)
        kernel = jnp.asarray(rng.normal(size=(3, 3, channels)), jnp.float32)
        times = []
        for convolve in (
            convolution.depthwise_convolution,
            lambda x, kernel, stride: convolution._shifted_products(convolution._border(x), kernel, stride),
            convolution._grouped,
        ):
            gradient = jax.jit(
                jax.grad(
                    lambda x, kernel, convolve=convolve, stride=stride: jnp.square(convolve(x, kernel, stride)).sum(),
                    argnums=(0, 1),
                )
            )
            times.append(
                1e3 * clock(lambda gradient=gradient, x=x, kernel=kernel: gradient(x, kernel), REPEATS.value)[0]
            )
        shape = f"{BATCH.value}×{side}×{side}×{channels}, stride {stride}"
        print(f"{shape:<34}{times[0]:>6.1f} ms{times[1]:>8.1f} ms{times[2]:>7.1f} ms")


def main(argv):
    del argv
    for name in WHAT.value:
        {"sizes": sizes, "speed": speed, "step": step, "depthwise": depthwise}[name]()


if __name__ == "__main__":
    app.run(main)

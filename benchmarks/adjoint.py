"""Time of adjoint steps in a loop, with and without the package's convolution: python benchmarks/adjoint.py

XLA's CPU backend leaves the transposed kernels of an automatic input gradient in a slow layout inside a `while_loop`;
`jaxlm.networks.convolution` lays them out once. The two convolutions are timed alternately in one run.
"""

import statistics
import time

import jax
import jax.numpy as jnp
from absl import app, flags
from jax import lax

from jaxlm.networks import blocks
from jaxlm.networks.convolution import conv_general_dilated
from jaxlm.systems.ldeq import network

STEPS = flags.DEFINE_integer("steps", 5, "Number of adjoint steps.")
REPEATS = flags.DEFINE_integer("repeats", 7, "Number of timed rounds.")


def main(argv):
    del argv
    model = network.LDEQ(68, **network.PRESETS["tiny"])
    params = model.init(jax.random.key(0))["params"]["cell"]
    z = jax.random.uniform(jax.random.key(1), (32, 16, 16, 68))
    x = jax.random.normal(jax.random.key(2), (32, 16, 16, model.width))

    def adjoint(params, x, z):
        vjp = jax.vjp(lambda z: model.cell(z, (params, x)), z)[1]
        return lax.fori_loop(0, STEPS.value, lambda _, u: vjp(u)[0] + z, jnp.ones_like(z))

    functions = {}
    for name, convolution in (("package", conv_general_dilated), ("automatic", lax.conv_general_dilated)):
        blocks.conv_general_dilated = network.conv_general_dilated = convolution
        functions[name] = jax.jit(lambda *args: adjoint(*args)).lower(params, x, z).compile()
    values = {name: function(params, x, z) for name, function in functions.items()}
    times = {name: [] for name in functions}
    for _ in range(REPEATS.value):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(params, x, z))
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        print(
            f"{name:<10}{1000 * statistics.median(seconds):>9.1f} ms for {STEPS.value} adjoint steps of a batch of 32"
        )
    ratio = statistics.median(a / b for a, b in zip(times["automatic"], times["package"], strict=True))
    gap = jnp.abs(values["package"] - values["automatic"]).max() / jnp.abs(values["automatic"]).max()
    print(f"ratio     {ratio:>9.2f}  largest relative difference {gap:.1e}")


if __name__ == "__main__":
    app.run(main)

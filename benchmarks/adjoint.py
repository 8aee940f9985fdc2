"""Time of adjoint steps in a loop, with and without the package's convolution: python -m benchmarks adjoint

XLA's CPU backend leaves the transposed kernels of an automatic input gradient in a slow layout inside a `while_loop`;
`jaxlm.networks.convolution` lays them out once. The two convolutions are timed in turns.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.table import Table, in_turns
from jaxlm.networks import blocks
from jaxlm.networks.convolution import conv_general_dilated
from jaxlm.systems.ldeq import network


@dataclasses.dataclass(frozen=True)
class Options:
    steps: int = 5
    """Number of adjoint steps."""
    rounds: int = 7
    """Turns; medians are printed."""


def main(options: Options, table: Table) -> None:
    model = network.LDEQ(68, **network.PRESETS["tiny"])
    params = model.init(jax.random.key(0))["params"]["cell"]
    z = jax.random.uniform(jax.random.key(1), (32, 16, 16, 68))
    x = jax.random.normal(jax.random.key(2), (32, 16, 16, model.width))

    def adjoint(params, x, z):
        vjp = jax.vjp(lambda z: model.cell(z, (params, x)), z)[1]
        return lax.fori_loop(0, options.steps, lambda _, u: vjp(u)[0] + z, jnp.ones_like(z))

    calls = {}
    for name, convolution in (("package", conv_general_dilated), ("automatic", lax.conv_general_dilated)):
        blocks.conv_general_dilated = network.conv_general_dilated = convolution
        compiled = jax.jit(lambda *args: adjoint(*args)).lower(params, x, z).compile()
        calls[name] = lambda compiled=compiled: compiled(params, x, z)
    values = {name: call() for name, call in calls.items()}
    turns = in_turns(calls, options.rounds)
    table.title(f"{options.steps} adjoint steps of a batch of 32")
    for name in calls:
        table.add(name, {"ms": 1e3 * turns.median(name), **turns.ratio(name, "package")})
    gap = jnp.abs(values["package"] - values["automatic"]).max() / jnp.abs(values["automatic"]).max()
    table.add("largest relative difference", {"": float(gap)})

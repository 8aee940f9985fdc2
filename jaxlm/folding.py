"""Batch norms folded for inference: into the convolution before them where there is one, else into one multiply-add."""

import collections
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxlm.models.mobilenet import DepthwiseConv

_CONVOLUTIONS = (nn.Conv, nn.Dense, DepthwiseConv)


class _Affine(NamedTuple):
    """What a norm is with running statistics: x · gain + shift."""

    gain: np.ndarray | None
    shift: np.ndarray | None


def fold_batch_norms(function: Callable[..., Any], variables: Any, *inputs: Any) -> Callable[..., Any]:
    """A function of the inputs alone, whose constants are the variables without batch norms.

    Args:
        function: (variables, *inputs) -> anything, which applies Flax modules that normalise by running statistics.
        variables: {"params", "batch_stats"}, arrays.
        *inputs: arrays or shapes, to look at the function once.

    Returns:
        (*inputs) -> what `function` returns, to rounding.
    """
    variables = jax.tree.map(jnp.asarray, variables)
    changed: dict[int, Any] = {}
    affines: dict[int, _Affine] = {}
    for key, (held, epsilon, convolution) in _find_norms(function, variables, inputs).items():
        params, statistics = held["params"], held["batch_stats"]
        gain = np.asarray(params["scale"]) / np.sqrt(np.asarray(statistics["var"]) + epsilon)
        shift = np.asarray(params["bias"]) - np.asarray(statistics["mean"]) * gain
        if convolution is None or id(convolution["kernel"]) in changed:
            affines[key] = _Affine(gain, shift)
            continue
        changed[id(convolution["kernel"])] = jnp.asarray(
            np.asarray(convolution["kernel"]) * gain
        )  # outputs are a kernel's last axis
        if "bias" in convolution:
            changed[id(convolution["bias"])] = jnp.asarray(np.asarray(convolution["bias"]) * gain + shift)
            affines[key] = _Affine(None, None)
        else:
            affines[key] = _Affine(None, shift)
    folded_variables = jax.tree.map(lambda leaf: changed.get(id(leaf), leaf), variables)

    def replace(call, args, keywords, context):
        if not (isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__"):
            return call(*args, **keywords)
        x = args[0]
        gain, shift = affines[id(context.module.variables["params"]["scale"])]
        line = (1,) * (x.ndim - 1) + (-1,)
        y = x if gain is None else x * gain.reshape(line)
        y = y if shift is None else y + shift.reshape(line)
        return y.astype(x.dtype)

    def folded(*inputs):
        with nn.intercept_methods(replace):
            return function(folded_variables, *inputs)

    return folded


def _find_norms(function: Callable[..., Any], variables: Any, inputs: Any) -> dict[int, tuple[Any, float, Any]]:
    """Identity of each norm's scale -> its variables, its epsilon, and the parameters of the convolution before it, or
    None where there is none or something else sees the convolution's output, too."""
    made: dict[int, tuple[str, Any, Any]] = {}  # identity of an output -> its name, the output, the parameters
    norms: dict[int, tuple[Any, float, tuple[str, Any, Any] | None]] = {}

    def watch(call, args, keywords, context):
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **keywords)
        if isinstance(module, nn.BatchNorm):
            held = module.variables
            norms[id(held["params"]["scale"])] = held, module.epsilon, made.get(id(args[0]))
            return checkpoint_name(args[0], "norm")  # its only use of the input
        output = call(*args, **keywords)
        if isinstance(module, _CONVOLUTIONS):
            name = f"convolution {len(made)}"
            output = checkpoint_name(output, name)
            made[id(output)] = name, output, module.variables["params"]
        return output

    with nn.intercept_methods(watch):
        closed = jax.make_jaxpr(lambda *inputs: function(variables, *inputs))(*inputs)
    uses = _count_uses(closed.jaxpr)
    return {
        key: (held, epsilon, before[2] if before is not None and uses.get(before[0]) == 1 else None)
        for key, (held, epsilon, before) in norms.items()
    }


def _count_uses(jaxpr: Any) -> dict[str, int]:
    """Name of a `checkpoint_name` -> how often its value is used."""
    uses: dict[str, int] = {}
    for inner in _jaxprs(jaxpr):
        read = collections.Counter(id(var) for eqn in inner.eqns for var in eqn.invars)
        read.update(id(var) for var in inner.outvars)
        for eqn in inner.eqns:
            if eqn.primitive.name == "name":
                uses[eqn.params["name"]] = uses.get(eqn.params["name"], 0) + read[id(eqn.outvars[0])]
    return uses


def _jaxprs(jaxpr: Any) -> Iterator[Any]:
    """A jaxpr and all within it."""
    yield jaxpr
    for eqn in jaxpr.eqns:
        for inner in inner_jaxprs(eqn):
            yield from _jaxprs(inner)


def inner_jaxprs(eqn: Any) -> list[Any]:
    """The jaxprs that an equation calls: branches, bodies, functions."""
    found = []
    for value in eqn.params.values():
        for inner in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found.append(inner)
    return found

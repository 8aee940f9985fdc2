"""Folds batch norms for inference: into the convolution before them if there is one, else into one multiply-add."""

import collections
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxlm.networks.mobilenet import DepthwiseConv
from jaxlm.networks.multiply_adds import inner_jaxprs

_CONVOLUTIONS = (nn.Conv, nn.Dense, DepthwiseConv)


class _Affine(NamedTuple):
    """Batch norm with running statistics, as x · gain + shift.

    Attributes:
        gain: (C,), or None if the convolution before it contains it.
        shift: (C,), or None if the convolution before it contains it.
    """

    gain: np.ndarray | None
    shift: np.ndarray | None


def fold_batch_norms(function: Callable[..., Any], variables: Any, *inputs: Any) -> Callable[..., Any]:
    """Binds a function to its variables, with batch norms folded.

    Args:
        function: (variables, *inputs) -> any outputs. It applies Flax modules whose batch norms use running statistics.
        variables: {"params", "batch_stats"} of arrays.
        *inputs: arrays or `jax.ShapeDtypeStruct`, with which the function is traced once.

    Returns:
        (*inputs) -> the outputs of `function`, equal up to rounding; the folded variables are its constants.
    """
    variables = jax.tree.map(jnp.asarray, variables)
    changed: dict[int, Any] = {}
    affines: dict[int, _Affine] = {}
    for key, (held, epsilon, convolution) in _find_norms(function, variables, inputs).items():
        params, statistics = held.get("params", {}), held["batch_stats"]
        gain = np.asarray(params.get("scale", 1.0)) / np.sqrt(np.asarray(statistics["var"]) + epsilon)
        shift = np.asarray(params.get("bias", 0.0)) - np.asarray(statistics["mean"]) * gain
        if convolution is None:
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
        gain, shift = affines[id(context.module.variables["batch_stats"]["mean"])]
        line = (1,) * (x.ndim - 1) + (-1,)
        y = x if gain is None else x * gain.reshape(line)
        y = y if shift is None else y + shift.reshape(line)
        return y.astype(x.dtype)

    def folded(*inputs):
        with nn.intercept_methods(replace):
            return function(folded_variables, *inputs)

    return folded


def _find_norms(function: Callable[..., Any], variables: Any, inputs: Any) -> dict[int, tuple[Any, float, Any]]:
    """Batch norms of a function, and the convolutions into which they can be folded.

    Returns:
        `id` of each norm's mean -> the norm's variables, its epsilon, and the parameters of the convolution before it.
        The parameters are None if there is no such convolution, if its output is also used elsewhere, or if the norm or
        the convolution has another partner in some call.
    """
    outputs: dict[int, tuple[str, int, Any]] = {}  # id of an output -> its name, id of its kernel, the output
    kernels: dict[int, Any] = {}  # id of a kernel -> the convolution's parameters
    norms: dict[int, tuple[Any, float]] = {}
    before: dict[int, list[tuple[str, int] | None]] = collections.defaultdict(list)  # inputs of each norm's calls
    names: dict[int, list[str]] = collections.defaultdict(list)  # outputs of each kernel's calls

    def watch(call, args, keywords, context):
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **keywords)
        if isinstance(module, nn.BatchNorm):
            key = id(module.variables["batch_stats"]["mean"])
            norms[key] = module.variables, module.epsilon
            made = outputs.get(id(args[0]))
            before[key].append(None if made is None else made[:2])
            return checkpoint_name(args[0], "norm")  # counts as one use of the input
        output = call(*args, **keywords)
        if isinstance(module, _CONVOLUTIONS):
            name, kernel = f"convolution {len(outputs)}", id(module.variables["params"]["kernel"])
            output = checkpoint_name(output, name)
            outputs[id(output)] = name, kernel, output
            kernels[kernel] = module.variables["params"]
            names[kernel].append(name)
        return output

    with nn.intercept_methods(watch):
        closed = jax.make_jaxpr(lambda *inputs: function(variables, *inputs))(*inputs)
    uses = _count_uses(closed.jaxpr)

    def partner(key: int) -> Any:
        calls = before[key]
        if any(made is None for made in calls) or len({made[1] for made in calls if made is not None}) != 1:
            return None
        seen, kernel = [made[0] for made in calls if made is not None], calls[0][1]  # pyright: ignore
        alone = sorted(seen) == sorted(names[kernel]) and all(uses.get(name) == 1 for name in seen)
        return kernels[kernel] if alone else None

    return {key: (held, epsilon, partner(key)) for key, (held, epsilon) in norms.items()}


def _count_uses(jaxpr: Any) -> dict[str, int]:
    """Number of uses of the values that `checkpoint_name` marks, by their names."""
    uses: dict[str, int] = {}
    for inner in _jaxprs(jaxpr):
        read = collections.Counter(id(var) for eqn in inner.eqns for var in eqn.invars)
        read.update(id(var) for var in inner.outvars)
        for eqn in inner.eqns:
            if eqn.primitive.name == "name":
                uses[eqn.params["name"]] = uses.get(eqn.params["name"], 0) + read[id(eqn.outvars[0])]
    return uses


def _jaxprs(jaxpr: Any) -> Iterator[Any]:
    """Yields a jaxpr and all jaxprs nested in it."""
    yield jaxpr
    for eqn in jaxpr.eqns:
        for inner in inner_jaxprs(eqn):
            yield from _jaxprs(inner)

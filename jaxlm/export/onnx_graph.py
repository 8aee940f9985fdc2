"""Converts JAX functions to ONNX graphs with a dynamic batch, through jax2onnx.

Operations that jax2onnx 0.17 cannot convert with a dynamic batch, or that ONNX Runtime cannot run, are first replaced
by others with the same result.
"""

import contextlib
import functools
import io
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from jax import lax

# Calls that are inlined: name of the primitive -> parameter that holds its jaxpr.
_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}


class _Platform(int):
    """Index of the branch of `lax.platform_dependent` that is taken: a number here, an array for XLA."""


def to_onnx(
    function: Callable[[Any], tuple[Any, ...]],
    spec: jax.ShapeDtypeStruct,
    *,
    input_name: str,
    output_names: Sequence[str],
) -> bytes:
    """Converts a function of one array to a serialised ONNX model.

    Args:
        function: array -> arrays. The default branch of `lax.platform_dependent` is converted.
        spec: shape and type of the array; a symbolic first dimension (`jax.export.symbolic_shape`) stays dynamic.
        input_name: name of the input in the ONNX graph.
        output_names: names of the outputs in the ONNX graph.

    Raises:
        ValueError: if jax2onnx is not installed.
    """
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise ValueError("Export to ONNX needs jax2onnx and onnxruntime: pip install '.[export]'.") from None
    closed = jax.make_jaxpr(function)(spec)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # hides warnings about shapes known only at run time
    with contextlib.redirect_stdout(io.StringIO()):
        model = jax2onnx.to_onnx(
            lambda array: tuple(_evaluate(closed.jaxpr, closed.consts, array)),
            [spec],
            input_names=[input_name],
            output_names=list(output_names),
        )
    return model.SerializeToString()


def _evaluate(jaxpr: Any, consts: Sequence[Any], *args: Any) -> list[Any]:
    """Evaluates a jaxpr like `jax.core.eval_jaxpr`, with the operations of `_REWRITES` replaced."""
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(var: Any) -> Any:
        return var.val if isinstance(var, jax.extend.core.Literal) else values[var]

    for eqn in jaxpr.eqns:
        operands, name, params = [read(var) for var in eqn.invars], eqn.primitive.name, eqn.params
        if name in _REWRITES:
            outputs = [_REWRITES[name](*operands, **params)]
        elif name == "platform_index":
            outputs = [_Platform(len(params["platforms"]) - 1)]
        elif any(isinstance(operand, _Platform) for operand in operands):
            if name != "cond":  # a conversion or a clamp of the index
                outputs = [operand for operand in operands if isinstance(operand, _Platform)]
            else:
                branch = params["branches"][operands[0]]
                outputs = _evaluate(branch.jaxpr, branch.consts, *operands[1:])
        elif name == "while":
            outputs = _evaluate_while(operands, **params)
        elif name == "scan" and params["unroll"] >= params["length"]:
            outputs = _evaluate_unrolled(operands, **params)
        elif name in _CALLS:
            inner = params[_CALLS[name]]
            outputs = _evaluate(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), *operands)
        else:
            outputs = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(params))
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _evaluate_unrolled(operands, *, jaxpr, length, reverse, num_consts, num_carry, **others):
    """A `lax.scan` that is to be unrolled, step by step."""
    del others
    consts, carry = operands[:num_consts], list(operands[num_consts : num_consts + num_carry])
    sequences, stacked = operands[num_consts + num_carry :], [None] * length
    for step in reversed(range(length)) if reverse else range(length):
        inputs = [*consts, *carry, *(sequence[step] for sequence in sequences)]
        outputs = _evaluate(jaxpr.jaxpr, jaxpr.consts, *inputs)
        carry, stacked[step] = outputs[:num_carry], outputs[num_carry:]
    return [*carry, *(jnp.stack(values) for values in zip(*stacked, strict=True))]


def _evaluate_while(operands, *, cond_jaxpr, body_jaxpr, cond_nconsts, body_nconsts, **others):
    first = cond_nconsts + body_nconsts
    of_cond, of_body, start = operands[:cond_nconsts], operands[cond_nconsts:first], operands[first:]
    return jax.lax.while_loop(
        lambda state: _evaluate(cond_jaxpr.jaxpr, cond_jaxpr.consts, *of_cond, *state)[0],
        lambda state: _evaluate(body_jaxpr.jaxpr, body_jaxpr.consts, *of_body, *state),
        start,
    )


def _max_pool(x, *, window_dimensions, window_strides, padding, **others):
    """Max pooling as the maximum of shifted windows, because ONNX pools only channels-first images."""
    if any(step != 1 for name in ("base_dilation", "window_dilation") for step in others.get(name) or ()):
        raise ValueError("Max pooling with dilations cannot be exported to ONNX.")
    x = _pad(x, jnp.array(-jnp.inf, x.dtype), padding_config=[(low, high, 0) for low, high in padding])
    axes = [axis for axis, size in enumerate(window_dimensions) if size > 1]
    shifted = []
    for offsets in itertools.product(*(range(window_dimensions[axis]) for axis in axes)):
        window = x
        for axis, offset in zip(axes, offsets, strict=True):
            stride = window_strides[axis]
            last = offset + (x.shape[axis] - window_dimensions[axis]) // stride * stride
            window = lax.slice_in_dim(window, offset, last + 1, stride, axis)
        shifted.append(window)
    return functools.reduce(jnp.maximum, shifted)


def _pad(x, value, *, padding_config):
    if any(interior or low < 0 or high < 0 for low, high, interior in padding_config):
        raise ValueError("Interior or negative padding cannot be exported to ONNX.")
    for axis, (low, high, _) in enumerate(padding_config):
        shapes = [tuple(width if i == axis else size for i, size in enumerate(x.shape)) for width in (low, high)]
        before, after = (lax.broadcast(jnp.asarray(value, x.dtype), shape) for shape in shapes)
        parts = [part for part, width in ((before, low), (x, 1), (after, high)) if width > 0]
        x = lax.concatenate(parts, axis) if len(parts) > 1 else x
    return x


def _gather(operand, indices, *, dimension_numbers, slice_sizes, **others):
    """Reads windows of images pixel by pixel from a flat list, for `jaxlm.systems.reinit.sampler`.

    Other gathers are unchanged.
    """
    numbers = dimension_numbers
    if operand.ndim != 4 or numbers.operand_batching_dims != (0,) or numbers.start_index_map != (2, 1):
        return lax.gather_p.bind(operand, indices, dimension_numbers=numbers, slice_sizes=slice_sizes, **others)
    height, width, channels = operand.shape[1:]
    pixels = operand.reshape(-1, channels)
    x, y = indices[..., 0], indices[..., 1]
    start = lax.broadcasted_iota(indices.dtype, x.shape, 0) * (height * width) + y * width + x
    window = [
        jnp.stack([pixels[start + dy * width + dx] for dx in range(slice_sizes[2])], axis=2)
        for dy in range(slice_sizes[1])
    ]
    return jnp.stack(window, axis=2)


def _remainder(x, y, **others):
    return x - y * lax.div(x, y)


def _same(x, **others):
    return x


_REWRITES: dict[str, Callable[..., Any]] = {
    "gather": _gather,
    "reduce_window_max": _max_pool,
    "pad": _pad,
    "rem": _remainder,
    "optimization_barrier": _same,
    "name": _same,
}

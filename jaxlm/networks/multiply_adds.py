"""Counts the multiply-adds of a function in its jaxpr: those of convolutions and matrix products only."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core


def count_macs(function: Callable[..., Any], *inputs: Any, loop_steps: int = 1) -> int:
    """Number of multiply-adds of one call of a function.

    Args:
        function: function to count; it is traced, not run.
        *inputs: its arguments, arrays or `jax.ShapeDtypeStruct`.
        loop_steps: assumed number of iterations of every `while_loop`, which a jaxpr does not tell.
    """
    return count_macs_of(jax.make_jaxpr(function)(*inputs), loop_steps=loop_steps)


def count_macs_of(jaxpr: jax.extend.core.ClosedJaxpr, *, loop_steps: int = 1) -> int:
    """Number of multiply-adds of a traced function; see `count_macs`."""
    return _of_jaxpr(jaxpr.jaxpr, loop_steps)


def _of_jaxpr(jaxpr: Any, loop_steps: int) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        name, inner = eqn.primitive.name, inner_jaxprs(eqn)
        if name == "conv_general_dilated":
            kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // kernel[numbers.rhs_spec[0]]
        elif name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(
                eqn.invars[0].aval.shape[axis] for axis in contracted
            )
        elif name == "cond":
            # `lax.platform_dependent` is a cond whose last branch is the default.
            total += _of_jaxpr(inner[-1], loop_steps)
        elif inner:
            times = {"scan": eqn.params.get("length", 1), "while": loop_steps}.get(name, 1)
            total += times * sum(_of_jaxpr(one, loop_steps) for one in inner)
    return total


def inner_jaxprs(eqn: Any) -> list[Any]:
    """Jaxprs that an equation calls: branches, loop bodies and functions."""
    found = []
    for value in eqn.params.values():
        for inner in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found.append(inner)
    return found

"""The loop of the fixed-point solvers, its statistics and the checks of their arguments."""

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree, Shaped

Fun = Callable[[Any], Any]

# So many steps that are differentiated are unrolled: in a loop, XLA's CPU backend takes ten times as long for the
# gradients of convolutions.
FEW_STEPS = 16


class SolverStats(NamedTuple):
    """Statistics of one run of a solver.

    Attributes:
        num_steps: (), evaluations of `fun` until the last sample stopped.
        residual: (B,) residual ‖f(z) − z‖₂ of the best iterate z, divided by ‖f(z)‖₂ or by `scale` if relative; inf
            where no iterate was finite.
        best_step: (B,) step, counted from 0 (= z0), at which the best iterate was evaluated.
        converged: (B,) whether the residual met the tolerance.
        trace: (max_steps, B) residual at every step, NaN after the sample stopped; None without `trace=True`.
        taps: iterates at the steps of the argument `taps`, stacked on a new leading axis; None without `taps`. They
            are the frozen iterate for a sample that had stopped before, and zeros for a step that was not reached.
    """

    num_steps: Shaped[Array, ""]
    residual: Shaped[Array, " B"]
    best_step: Shaped[Array, " B"]
    converged: Shaped[Array, " B"]
    trace: Shaped[Array, "S B"] | None = None
    taps: PyTree | None = None


class Options(NamedTuple):
    """Arguments that all solvers share, see `fixed_point_iteration`."""

    tol: Any
    max_steps: int
    relative: bool
    scale: Array | None
    trace: bool
    taps: tuple[int, ...]
    differentiable: bool
    image: bool


class _State(NamedTuple):
    step: Array
    z: Float[Array, "B N"]
    best: Float[Array, "B N"]
    distance: Float[Array, " B"]  # of the best iterate, ‖f(z) − z‖
    residual: Float[Array, " B"]
    best_step: Array
    active: Array
    converged: Array
    trace: Array | None
    taps: Array | None
    memory: Any


def solve(fun, z0, init, propose, options: Options):
    """Runs the loop of all solvers.

    `propose(step, z, fz, distance, memory) -> (z_next, going_on, memory)` computes the next iterate of each sample, and
    whether the sample has one; `distance` (B,) is ‖f(z) − z‖.
    """
    flatten, unflatten = batch_raveler(z0)
    z = flatten(z0)
    check_options(options, z.dtype)
    check_fun(fun, z0)
    batch, max_steps = z.shape[0], options.max_steps
    dtype = sum_dtype(z.dtype)
    tap_steps = jnp.asarray(options.taps, jnp.int32)

    state = _State(
        step=jnp.zeros((), jnp.int32),
        z=z,
        best=z,
        distance=jnp.full((batch,), jnp.inf, dtype),
        residual=jnp.full((batch,), jnp.inf, dtype),
        best_step=jnp.zeros((batch,), jnp.int32),
        active=jnp.ones((batch,), bool),
        converged=jnp.zeros((batch,), bool),
        trace=jnp.full((max_steps, batch), jnp.nan, dtype) if options.trace else None,
        taps=jnp.zeros((len(options.taps), *z.shape), z.dtype) if options.taps else None,
        memory=init(z),
    )

    def body(state: _State) -> _State:
        step, z, active = state.step, state.z, state.active
        running = jnp.any(active)  # false where a scan goes on after the last sample has stopped
        fz = flatten(fun(unflatten(z)))
        distance = lax.stop_gradient(norm(fz.astype(dtype) - z.astype(dtype)))
        residual = distance
        if options.relative:
            divisor = lax.stop_gradient(norm(fz)) if options.scale is None else options.scale.astype(dtype)
            residual = distance / jnp.maximum(divisor, jnp.finfo(dtype).tiny)
        finite = jnp.isfinite(residual)
        converged = active & finite & (residual <= options.tol)
        # By ‖f(z) − z‖ itself: where z blows up, ‖f(z) − z‖ / ‖f(z)‖ can fall for ever.
        better = active & finite & ((distance < state.distance) | converged)
        best = jnp.where(better[:, None], fz if options.image else z, state.best)
        z_next, going_on, memory = propose(step, z, fz, distance, state.memory)
        still = active & going_on & ~converged
        recorded = state.trace
        if recorded is not None:
            recorded = recorded.at[step].set(jnp.where(active, residual, jnp.nan))
        tapped = state.taps
        if tapped is not None:
            tapped = jnp.where((running & (tap_steps == step))[:, None, None], z, tapped)
        return _State(
            step=step + running,
            z=jnp.where(still[:, None], z_next, best),
            best=best,
            distance=jnp.where(better, distance, state.distance),
            residual=jnp.where(better, residual, state.residual),
            best_step=jnp.where(better, step, state.best_step),
            active=still,
            converged=state.converged | converged,
            trace=recorded,
            taps=tapped,
            memory=memory,
        )

    def unfinished(state: _State):
        return (state.step < max_steps) & jnp.any(state.active)

    if options.differentiable:
        unroll = max_steps <= FEW_STEPS
        state, _ = lax.scan(lambda state, _: (body(state), None), state, None, length=max_steps, unroll=unroll)
    else:
        state = lax.while_loop(unfinished, body, state)

    stats = SolverStats(
        num_steps=state.step,
        residual=state.residual,
        best_step=state.best_step,
        converged=state.converged,
        trace=state.trace,
        taps=None if state.taps is None else jax.vmap(unflatten)(state.taps),
    )
    return unflatten(state.best), stats


def norm(x: Float[Array, "B N"]) -> Float[Array, " B"]:
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(sum_dtype(x.dtype))), axis=1))


def contract(subscripts: str, *operands: Array) -> Array:
    """einsum in full precision, summed in float32 at least, even if the hardware's default is less."""
    dtype = sum_dtype(jnp.result_type(*operands))
    return jnp.einsum(subscripts, *operands, precision=lax.Precision.HIGHEST, preferred_element_type=dtype)


def sum_dtype(dtype):
    """Type of sums: float32 at least."""
    return jnp.promote_types(dtype, jnp.float32)


def batch_raveler(example: PyTree):
    """Returns the functions flatten, from states shaped like `example` to (B, N), and unflatten, its inverse."""
    leaves, treedef = jax.tree.flatten(example)
    if not leaves:
        raise ValueError("z0 has no arrays.")
    shapes = [jnp.shape(leaf) for leaf in leaves]
    dtypes = [jnp.result_type(leaf) for leaf in leaves]
    if any(len(shape) == 0 or shape[0] != shapes[0][0] for shape in shapes):
        raise ValueError(f"The arrays of z0 must share a leading batch axis, got shapes {shapes}.")
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        raise ValueError(f"The arrays of z0 must be floating point, got {[str(d) for d in dtypes]}.")
    batch, dtype = shapes[0][0], jnp.result_type(*dtypes)
    sizes = [math.prod(shape[1:]) for shape in shapes]

    def flatten(tree):
        leaves = zip(jax.tree.leaves(tree), sizes, strict=True)
        flat = [jnp.reshape(leaf, (batch, size)).astype(dtype) for leaf, size in leaves]
        return flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=1)

    def unflatten(flat):
        parts = jnp.split(flat, list(itertools.accumulate(sizes))[:-1], axis=1)
        reshaped = [jnp.reshape(p, s).astype(d) for p, s, d in zip(parts, shapes, dtypes, strict=True)]
        return jax.tree.unflatten(treedef, reshaped)

    return flatten, unflatten


def check_fun(fun: Fun, z0: PyTree) -> None:
    def signature(tree):
        return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)

    given, returned = signature(z0), signature(jax.eval_shape(fun, z0))
    if given != returned:
        raise ValueError(f"fun must return what it is given: shapes and types {given}, but it returned {returned}.")


def check_options(options: Options, dtype) -> None:
    if options.max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {options.max_steps}.")
    if any(not 0 <= tap < options.max_steps for tap in options.taps):
        raise ValueError(f"taps must lie in [0, max_steps = {options.max_steps}), got {tuple(options.taps)}.")
    if not is_known(options.tol):
        return
    if not options.tol >= 0:
        raise ValueError(f"tol must not be negative, got {options.tol}.")
    rounding = float(jnp.finfo(dtype).eps) / 2
    if options.relative and 0 < options.tol < rounding:
        warnings.warn(
            f"tol = {float(options.tol):g} is less than the rounding error of {jnp.dtype(dtype).name}, {rounding:.1g}: "
            "no sample can be sure to reach it. Raise it, take a wider type for z0, or 0 for all of max_steps.",
            stacklevel=4,
        )


def check_unit(name: str, value: Any) -> None:
    if is_known(value) and not 0 < value <= 1:
        raise ValueError(f"{name} must lie in (0, 1], got {value}.")


def is_known(value: Any) -> bool:
    """Whether a number has a value while the program is traced."""
    return not isinstance(value, jax.core.Tracer)

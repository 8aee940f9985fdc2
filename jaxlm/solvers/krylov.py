"""GMRES for affine maps, each sample of a batch in a Krylov space of its own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxlm.solvers.loop import (
    Fun,
    Options,
    SolverStats,
    batch_raveler,
    check_fun,
    check_options,
    contract,
    norm,
    sum_dtype,
)


def gmres(
    fun: Fun,
    z0: PyTree,
    *,
    tol: float | Array | None = None,
    max_steps: int = 50,
    memory: int = 20,
    relative: bool = True,
    scale: Float[Array, " B"] | None = None,
    trace: bool = False,
) -> tuple[PyTree, SolverStats]:
    """Restarted GMRES for the fixed point of an affine map, z = J z + b (Saad & Schultz, SISSC 1986).

    It solves (I − J)(z − z0) = f(z0) − z0, where J is the derivative of `fun` at z0; a map that is not affine is solved
    to first order. Its residual never rises, also where plain iteration diverges because an eigenvalue of J lies
    outside the unit circle. A step is one application of J; the first step evaluates `fun` at z0.

    Args:
        fun: see `fixed_point_iteration`, which also describes the arguments that are not listed here.
        tol: of the residual, which is divided by `scale` or else by ‖f(z0)‖; None takes ε^⅔ for the ε of z0's type,
            4e-11 in float64.
        memory: Krylov vectors that are kept before a restart, at least 1.
    """
    flatten, unflatten = batch_raveler(z0)
    start = flatten(z0)
    dtype = sum_dtype(start.dtype)
    tolerance: Any = float(jnp.finfo(start.dtype).eps) ** (2 / 3) if tol is None else tol
    if memory < 1:
        raise ValueError(f"memory must be at least 1, got {memory}.")
    check_options(Options(tolerance, max_steps, relative, scale, trace, (), False, False), start.dtype)
    check_fun(fun, z0)
    size = min(memory, max_steps)
    batch = start.shape[0]

    image, jacobian = jax.linearize(lambda z: flatten(fun(unflatten(z))), start)
    first = image.astype(dtype) - start.astype(dtype)
    divisor = jnp.ones((batch,), dtype)
    if relative:
        divisor = norm(image) if scale is None else scale.astype(dtype)
    divisor = jnp.maximum(divisor, jnp.finfo(dtype).tiny)
    distance = norm(first)
    residual = distance / divisor

    def cycle_begin(r):
        length = norm(r)
        basis = jnp.zeros((batch, size + 1, r.shape[1]), dtype).at[:, 0].set(_divide(r, length))
        return _Cycle(
            basis=basis,
            triangle=jnp.zeros((batch, size + 1, size), dtype),
            rotations=jnp.zeros((batch, size, 2), dtype),
            right=jnp.zeros((batch, size + 1), dtype).at[:, 0].set(length),
            used=jnp.zeros((batch, size), bool),
        )

    state = _KrylovState(
        step=jnp.asarray(1, jnp.int32),
        z=start.astype(dtype),
        residual=jnp.where(jnp.isfinite(residual), residual, jnp.inf),
        best_step=jnp.zeros((batch,), jnp.int32),
        active=jnp.isfinite(residual) & (residual > tolerance),
        trace=jnp.full((max_steps, batch), jnp.nan, dtype).at[0].set(residual) if trace else None,
        cycle=cycle_begin(jnp.where(jnp.isfinite(first), first, 0.0)),
    )

    def body(state: _KrylovState) -> _KrylovState:
        column = (state.step - 1) % size
        direction = lax.dynamic_index_in_dim(state.cycle.basis, column, 1, keepdims=False)
        applied = direction - jacobian(direction.astype(start.dtype)).astype(dtype)
        usable = state.active & jnp.isfinite(norm(applied))
        cycle, distance = _arnoldi(state.cycle, column, jnp.where(usable[:, None], applied, 0.0), usable)
        usable = cycle.used[:, column]
        residual = jnp.where(usable, distance / divisor, state.residual)
        active = usable & (residual > tolerance)

        def restart(z, cycle):
            change, r = _leave(cycle)
            return z + change, cycle_begin(r)

        z, cycle = lax.cond(column == size - 1, restart, lambda *kept: kept, state.z, cycle)
        recorded = state.trace
        if recorded is not None:
            recorded = recorded.at[state.step].set(jnp.where(usable, residual, jnp.nan))
        best_step = jnp.where(usable, state.step, state.best_step)
        return _KrylovState(state.step + 1, z, residual, best_step, active, recorded, cycle)

    state = lax.while_loop(lambda state: (state.step < max_steps) & jnp.any(state.active), body, state)
    z = state.z + _leave(state.cycle)[0]
    converged = state.residual <= tolerance
    stats = SolverStats(state.step, state.residual, state.best_step, converged, state.trace)
    return unflatten(z.astype(start.dtype)), stats


class _KrylovState(NamedTuple):
    step: Array
    z: Float[Array, "B N"]  # at the beginning of the cycle
    residual: Float[Array, " B"]
    best_step: Array
    active: Array
    trace: Array | None
    cycle: "_Cycle"


class _Cycle(NamedTuple):
    """The Krylov space of each sample since the last restart, and the least-squares problem in it.

    Attributes:
        basis: (B, m + 1, N) orthonormal vectors; the first is the residual's direction.
        triangle: (B, m + 1, m) Hessenberg matrix after the rotations: upper triangular.
        rotations: (B, m, 2) cosine and sine of the rotation of each column.
        right: (B, m + 1) right-hand side after the rotations; the entry after the last column is the residual's norm.
        used: (B, m) columns that count; none after the sample has stopped.
    """

    basis: Array
    triangle: Array
    rotations: Array
    right: Array
    used: Array


def _arnoldi(cycle: _Cycle, column: Array, vector: Array, usable: Array) -> tuple[_Cycle, Array]:
    """Adds A v, with the basis vector v of this column, to the cycle; and the residual's norm (B,) with it."""
    coefficients = contract("bmn,bn->bm", cycle.basis, vector)
    vector = vector - contract("bmn,bm->bn", cycle.basis, coefficients)
    again = contract("bmn,bn->bm", cycle.basis, vector)  # a second time, because of rounding
    vector = vector - contract("bmn,bm->bn", cycle.basis, again)
    length = norm(vector)
    coefficients = (coefficients + again).at[:, column + 1].add(length)

    def rotate(i, h):
        cosine, sine = cycle.rotations[:, i, 0], cycle.rotations[:, i, 1]
        a, b = h[:, i], h[:, i + 1]
        return h.at[:, i].set(cosine * a + sine * b).at[:, i + 1].set(cosine * b - sine * a)

    h = lax.fori_loop(0, column, rotate, coefficients)
    diagonal = jnp.hypot(h[:, column], length)
    usable = usable & (diagonal > 0)
    cosine, sine = _divide(h[:, column], diagonal), _divide(length, diagonal)
    rest = cycle.right[:, column]
    cycle = _Cycle(
        basis=cycle.basis.at[:, column + 1].set(_divide(vector, length)),
        triangle=cycle.triangle.at[:, :, column].set(h.at[:, column].set(diagonal).at[:, column + 1].set(0.0)),
        rotations=cycle.rotations.at[:, column].set(jnp.stack([cosine, sine], axis=1)),
        right=jnp.where(
            usable[:, None],
            cycle.right.at[:, column].set(cosine * rest).at[:, column + 1].set(-sine * rest),
            cycle.right,
        ),
        used=cycle.used.at[:, column].set(usable),
    )
    return cycle, jnp.abs(sine * rest)


def _leave(cycle: _Cycle) -> tuple[Array, Array]:
    """What the cycle adds to z (B, N), and the residual (B, N) that it leaves."""
    size = cycle.used.shape[1]
    both = cycle.used[:, :, None] & cycle.used[:, None, :]
    triangle = jnp.where(both, cycle.triangle[:, :size], jnp.eye(size, dtype=cycle.triangle.dtype))
    right = jnp.where(cycle.used, cycle.right[:, :size], 0.0)
    weights = jax.scipy.linalg.solve_triangular(triangle, right[..., None])[..., 0]
    # The residual is the rotations, undone, of what stands after the last used column.
    last = cycle.used.sum(axis=1)
    after = jnp.take_along_axis(cycle.right, last[:, None], axis=1)[:, 0]
    rest = jnp.where(jnp.arange(size + 1)[None] == last[:, None], after[:, None], 0.0)

    def undo(k, rest):
        i = size - 1 - k
        cosine, sine = cycle.rotations[:, i, 0], cycle.rotations[:, i, 1]
        a, b = rest[:, i], rest[:, i + 1]
        undone = rest.at[:, i].set(cosine * a - sine * b).at[:, i + 1].set(cosine * b + sine * a)
        return jnp.where(cycle.used[:, i, None], undone, rest)

    rest = lax.fori_loop(0, size, undo, rest)
    return contract("bmn,bm->bn", cycle.basis[:, :-1], weights), contract("bmn,bm->bn", cycle.basis, rest)


def _divide(value: Array, divisor: Array) -> Array:
    """Quotient; 0 where the divisor (B,) is 0."""
    divisor = divisor.reshape(-1, *[1] * (value.ndim - 1))
    return jnp.where(divisor > 0, value / jnp.where(divisor > 0, divisor, 1.0), 0.0)

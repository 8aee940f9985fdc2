"""Anderson acceleration with a safeguard."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxlm.solvers.loop import (
    Fun,
    Options,
    SolverStats,
    check_unit,
    contract,
    is_known,
    solve,
    sum_dtype,
)


def anderson(
    fun: Fun,
    z0: PyTree,
    *,
    tol: float | Array = 1e-5,
    max_steps: int = 50,
    memory: int = 6,
    ridge: float = 1e-4,
    beta: float = 1.0,
    relative: bool = True,
    scale: Float[Array, " B"] | None = None,
    trace: bool = False,
    taps: tuple[int, ...] = (),
    differentiable: bool = False,
    image: bool = False,
) -> tuple[PyTree, SolverStats]:
    """Safeguarded Anderson acceleration (type II) over a window of `memory` iterates.

    The next iterate is Σ αᵢ ((1 − β) zᵢ + β f(zᵢ)) with the α, Σ αᵢ = 1, that minimise ‖Σ αᵢ gᵢ‖², gᵢ = f(zᵢ) − zᵢ
    (Anderson, JACM 1965; Walker & Ni, SINUM 2011). The m × m system is formed and solved in float32 at least, with
    rows scaled to unit diagonal and `ridge` added to it, so that neither the scale of z, nor a repeated iterate,
    nor bfloat16 makes it singular.

    An extrapolation that does not reduce ‖f(z) − z‖ is rejected: the sample goes back to the iterate before, forgets
    its window, and takes a plain step. After each further rejection it takes twice as many plain steps before it
    extrapolates again, so that few evaluations are lost where plain iteration is what converges.

    Args:
        fun: see `fixed_point_iteration`, which also describes the arguments that are not listed here.
        memory: window m, at least 1; with 1 this is plain damped iteration.
        ridge: Tikhonov term λ relative to each row's own ‖gᵢ‖².
        beta: mixing β in (0, 1].
    """
    check_unit("beta", beta)
    if memory < 1 or (is_known(ridge) and not ridge > 0):
        raise ValueError(f"memory must be at least 1 and ridge positive, got {memory} and {ridge}.")
    window = min(memory, max_steps)
    options = Options(tol, max_steps, relative, scale, trace, taps, differentiable, image)

    def init(z):
        batch, size = z.shape
        images = jnp.zeros((batch, window, size), z.dtype)
        gram = jnp.zeros((batch, window, window), sum_dtype(z.dtype))
        return images, images, gram, _Safeguard.begin(batch, window, gram.dtype)

    def propose(step, z, fz, distance, memory):
        images, residuals, gram, guard = memory
        slot = step % window
        finite = jnp.isfinite(distance)[:, None]
        fz, g = jnp.where(finite, fz, 0.0), jnp.where(finite, fz - z, 0.0)
        images = images.at[:, slot].set(fz)
        residuals = residuals.at[:, slot].set(g)
        row = contract("bmn,bn->bm", residuals, g)
        gram = gram.at[:, slot, :].set(row).at[:, :, slot].set(row)
        going_on = finite[:, 0] | guard.extrapolated
        guard, plain = guard.judge(step, distance)
        # α stays in the wide type: rounded to bfloat16 it would no longer sum to one.
        alpha = jnp.where(guard.extrapolated[:, None], _anderson_weights(gram, guard.filled, ridge), plain)
        z_next = contract("bm,bmn->bn", alpha, images)
        if not is_known(beta) or beta != 1.0:
            z_next = z_next - (1.0 - beta) * contract("bm,bmn->bn", alpha, residuals)
        return z_next.astype(z.dtype), going_on, (images, residuals, gram, guard)

    return solve(fun, z0, init, propose, options)


class _Safeguard(NamedTuple):
    """Which iterates of each sample Anderson acceleration may use, and whether it may extrapolate.

    Attributes:
        filled: (B, m) slots of the window that hold an accepted iterate.
        distance: (B,) ‖f(z) − z‖ of the last accepted iterate.
        extrapolated: (B,) whether the next iterate is an extrapolation.
        wait: (B,) plain steps to take before the next extrapolation.
        patience: (B,) plain steps to take after the next rejection.
    """

    filled: Array
    distance: Array
    extrapolated: Array
    wait: Array
    patience: Array

    @classmethod
    def begin(cls, batch: Any, window: int, dtype) -> "_Safeguard":
        """State before the first evaluation; `batch` may be symbolic, in an export."""
        none, zero = jnp.zeros((batch, window), bool), jnp.zeros((batch,), dtype)
        return cls(none, zero + jnp.inf, none[:, 0], zero, zero + 1)

    def judge(self, step: Array, distance: Array) -> tuple["_Safeguard", Array]:
        """State after an iterate was evaluated, and the weights (B, m) of a plain step from the accepted one."""
        window = self.filled.shape[1]
        here, before = (jnp.arange(window)[None] == s % window for s in (step, step + window - 1))
        rejected = self.extrapolated & ~(distance <= self.distance)
        back = rejected[:, None]
        # Not `where`, which ONNX Runtime lacks for booleans.
        accepted = (back & before) | (~back & here)
        filled = accepted | (~back & self.filled)
        wait = jnp.where(rejected, self.patience, self.wait)
        again = jnp.where(rejected, 2 * self.patience, jnp.maximum(self.patience / 2, 1))
        judged = _Safeguard(
            filled=filled,
            distance=jnp.where(rejected, self.distance, distance),
            extrapolated=(wait <= 0) & (filled & ~accepted).any(axis=1),
            wait=jnp.maximum(wait - 1, 0),
            patience=jnp.where(self.extrapolated, again, self.patience),
        )
        return judged, accepted.astype(distance.dtype)


def _anderson_weights(gram: Float[Array, "B m m"], filled: Array, ridge: float) -> Float[Array, "B m"]:
    """Weights α of each sample: solves (C + λI) w = d⁻¹ and normalises w/d to sum to one.

    C is `gram` with rows and columns divided by d, d² = diag(gram).
    """
    finite = jnp.all(jnp.isfinite(gram), axis=(1, 2), keepdims=True)
    gram = jnp.where(finite, gram, 0.0)
    squares = jnp.diagonal(gram, axis1=1, axis2=2)
    largest = squares.max(axis=1, keepdims=True)
    squares = jnp.where(largest > 0, squares / jnp.where(largest > 0, largest, 1.0), 0.0)
    gram = jnp.where(largest > 0, 1.0 / jnp.where(largest > 0, largest, 1.0), 0.0)[..., None] * gram
    scale = jnp.sqrt(jnp.maximum(squares, jnp.finfo(gram.dtype).eps ** 2))
    filled = jnp.broadcast_to(filled, scale.shape)
    both = filled[:, :, None] & filled[:, None, :]
    scaled = jnp.where(both, gram / (scale[:, :, None] * scale[:, None, :]), 0.0)
    diagonal = jnp.where(filled, ridge, 1.0).astype(gram.dtype)
    system = scaled + diagonal[:, :, None] * jnp.eye(filled.shape[1], dtype=gram.dtype)[None]
    # The factor `smallest` keeps d⁻¹ at most 1, also where a row is zero (a solved sample).
    smallest = jnp.min(jnp.where(filled, scale, jnp.inf), axis=1, keepdims=True)
    right = jnp.where(filled, smallest / scale, 0.0)
    weights = _solve_positive_definite(system, right) * right
    weights = jnp.where(filled, weights, 0.0)
    total = jnp.sum(weights, axis=1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1.0)


@jax.custom_jvp
def _solve_positive_definite(system: Float[Array, "B m m"], right: Float[Array, "B m"]) -> Float[Array, "B m"]:
    """Solution of each symmetric system; its tangent solves the same systems again.

    Differentiating the elimination instead would take most of the compilation of an unrolled solver.
    """
    return _eliminate(system, right)


@_solve_positive_definite.defjvp
def _solution_tangent(primals, tangents):
    (system, right), (system_dot, right_dot) = primals, tangents
    solution = _solve_positive_definite(system, right)

    def apply(matrix, vector):
        return contract("bij,bj->bi", matrix, vector)

    tangent = lax.custom_linear_solve(
        functools.partial(apply, system),
        right_dot - apply(system_dot, solution),
        lambda _, right: _solve_positive_definite(system, right),
        symmetric=True,
    )
    return solution, tangent


def _eliminate(system, right):
    """Solves each system by Gauss–Jordan elimination without pivoting, which a positive definite matrix allows.

    This is plain arithmetic on a few rows. Factorisations are slow or missing on some devices and in some exchange
    formats.
    """
    rows = jnp.concatenate([system, right[..., None]], axis=2)
    for k in range(system.shape[1]):
        pivot = rows[:, k : k + 1] / rows[:, k : k + 1, k : k + 1]
        is_pivot = (jnp.arange(system.shape[1]) == k)[None, :, None]
        rows = jnp.where(is_pivot, pivot, rows - rows[:, :, k : k + 1] * pivot)
    return rows[..., -1]

"""Fixed-point solvers: find z with fun(z) = z, for a batch of independent samples, in one `lax.while_loop`.

Every solver has the signature `(fun, z0, *, tol, max_steps, ...) -> (z, SolverStats)`. The state `z0` is an array or
a pytree whose leaves share a leading batch axis; `fun` maps such a state to one of the same shapes and treats its
samples independently. One step is one evaluation of `fun`. A sample stops when its residual meets the tolerance or is
no longer finite, and is frozen from then on; the loop ends when every sample has stopped.

The solvers return the best iterate of each sample; `SolverStats.residual` is its measured residual. They define no
gradient of their own (see `jaxlm.implicit`). `differentiable=True` replaces the loop by a `lax.scan` over all
`max_steps`, which gives the same numbers and supports reverse mode. It evaluates `fun` also after the last sample has
stopped, and it is unrolled if it has few steps.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
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
        residual: (B,) residual ‖f(z) − z‖₂ of the best iterate z, divided by ‖f(z)‖₂ if relative; inf where no
            iterate was finite.
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


class _State(NamedTuple):
    step: Array
    z: Float[Array, "B N"]
    best: Float[Array, "B N"]
    residual: Float[Array, " B"]
    best_step: Array
    active: Array
    converged: Array
    trace: Array | None
    taps: Array | None
    memory: Any


def fixed_point_iteration(
    fun: Fun,
    z0: PyTree,
    *,
    tol: float = 1e-5,
    max_steps: int = 50,
    beta: float = 1.0,
    relative: bool = True,
    trace: bool = False,
    taps: tuple[int, ...] = (),
    differentiable: bool = False,
    image: bool = False,
) -> tuple[PyTree, SolverStats]:
    """Damped fixed-point (Picard) iteration, z ← (1 − β) z + β f(z).

    Args:
        fun: the map; it receives and returns states like `z0`.
        z0: first iterate, array or pytree, leaves (B, ...).
        tol: a sample converges when its residual is at most this.
        max_steps: most evaluations of `fun`, at least 1.
        beta: damping β in (0, 1].
        relative: divide the residual ‖f(z) − z‖ by ‖f(z)‖.
        trace: record the residual of every step in the statistics.
        taps: steps in [0, max_steps) whose iterates are kept in the statistics.
        differentiable: run as a scan, for reverse mode through the iterations.
        image: return f(z) instead of the best iterate z. f(z) is one step nearer and costs no further evaluation.

    Returns:
        The best iterate of each sample, like `z0`, and the statistics.

    Raises:
        ValueError: if an option is out of range or `fun` changes shapes or types.
    """

    def propose(step, z, fz, memory):
        del step
        return z + beta * (fz - z), memory

    _check_unit("beta", beta)
    return _solve(fun, z0, lambda z: (), propose, tol, max_steps, relative, trace, taps, differentiable, image)


def anderson(
    fun: Fun,
    z0: PyTree,
    *,
    tol: float = 1e-5,
    max_steps: int = 50,
    memory: int = 6,
    ridge: float = 1e-4,
    beta: float = 1.0,
    relative: bool = True,
    trace: bool = False,
    taps: tuple[int, ...] = (),
    differentiable: bool = False,
    image: bool = False,
) -> tuple[PyTree, SolverStats]:
    """Anderson acceleration (type II) over a window of `memory` iterates.

    The next iterate is Σ αᵢ ((1 − β) zᵢ + β f(zᵢ)) with the α, Σ αᵢ = 1, that minimise ‖Σ αᵢ gᵢ‖², gᵢ = f(zᵢ) − zᵢ
    (Anderson, JACM 1965; Walker & Ni, SINUM 2011). The m × m system is formed and solved in float32 at least, with
    rows scaled to unit diagonal and `ridge` added to it, so that neither the scale of z, nor a repeated iterate,
    nor bfloat16 makes it singular.

    Args:
        fun: see `fixed_point_iteration`, which also describes the arguments that are not listed here.
        memory: window m, at least 1; with 1 this is plain damped iteration.
        ridge: Tikhonov term λ relative to each row's own ‖gᵢ‖².
        beta: mixing β in (0, 1].
    """
    _check_unit("beta", beta)
    if memory < 1 or not ridge > 0:
        raise ValueError(f"memory must be at least 1 and ridge positive, got {memory} and {ridge}.")
    window = min(memory, max_steps)

    def init(z):
        batch, size = z.shape
        images = jnp.zeros((batch, window, size), z.dtype)
        gram = jnp.zeros((batch, window, window), _sum_dtype(z.dtype))
        return images, images, gram

    def propose(step, z, fz, memory):
        images, residuals, gram = memory
        slot = step % window
        images = images.at[:, slot].set(fz)
        residuals = residuals.at[:, slot].set(fz - z)
        row = _contract("bmn,bn->bm", residuals, fz - z)
        gram = gram.at[:, slot, :].set(row).at[:, :, slot].set(row)
        # α stays in the wide type: rounded to bfloat16 it would no longer sum to one.
        alpha = _anderson_weights(gram, jnp.arange(window) <= step, ridge)
        z_next = _contract("bm,bmn->bn", alpha, images)
        if beta != 1.0:
            z_next = z_next - (1.0 - beta) * _contract("bm,bmn->bn", alpha, residuals)
        return z_next.astype(z.dtype), (images, residuals, gram)

    return _solve(fun, z0, init, propose, tol, max_steps, relative, trace, taps, differentiable, image)


def broyden(
    fun: Fun,
    z0: PyTree,
    *,
    tol: float = 1e-5,
    max_steps: int = 50,
    memory: int = 10,
    beta: float = 1.0,
    relative: bool = True,
    trace: bool = False,
    taps: tuple[int, ...] = (),
    differentiable: bool = False,
    image: bool = False,
) -> tuple[PyTree, SolverStats]:
    """Broyden's (good) method on g(z) = f(z) − z with a limited-memory inverse Jacobian.

    The inverse is −I + Σ uᵢ vᵢᵀ, one rank-one term a step (Broyden, Math. Comp. 1965; Sherman–Morrison form); it
    restarts from −I when `memory` terms are used up. There is no line search; the first step is a plain iteration.

    Args:
        fun: see `fixed_point_iteration`, which also describes the arguments that are not listed here.
        memory: rank-one terms kept before a restart, at least 1.
        beta: length of the quasi-Newton step, in (0, 1].
    """
    _check_unit("beta", beta)
    if memory < 1:
        raise ValueError(f"memory must be at least 1, got {memory}.")
    rank = min(memory, max_steps)

    def init(z):
        low_rank = jnp.zeros((z.shape[0], rank, z.shape[1]), z.dtype)
        return low_rank, low_rank, z, jnp.zeros_like(z)

    def propose(step, z, fz, memory):
        us, vs, z_prev, g_prev = memory
        g = fz - z
        dtype = _sum_dtype(z.dtype)

        def apply(left, right, x):  # (−I + Σ leftᵢ rightᵢᵀ) x
            return (_contract("bmn,bm->bn", left, _contract("bmn,bn->bm", right, x)) - x).astype(x.dtype)

        def update(us, vs):
            used = (step - 1) % rank
            us, vs = lax.cond(used == 0, lambda: (us * 0, vs * 0), lambda: (us, vs))
            dz, dg = z - z_prev, g - g_prev
            v = apply(vs, us, dz)
            denominator = _contract("bn,bn->b", v, dg)
            safe = jnp.abs(denominator) > jnp.finfo(dtype).tiny
            scale = jnp.where(safe, 1.0 / jnp.where(safe, denominator, 1.0), 0.0).astype(z.dtype)
            u = (dz - apply(us, vs, dg)) * scale[:, None]
            return us.at[:, used].set(u), vs.at[:, used].set(v)

        us, vs = lax.cond(step > 0, update, lambda us, vs: (us, vs), us, vs)
        return z - beta * apply(us, vs, g), (us, vs, z, g)

    return _solve(fun, z0, init, propose, tol, max_steps, relative, trace, taps, differentiable, image)


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


def _solve_positive_definite(system: Float[Array, "B m m"], right: Float[Array, "B m"]) -> Float[Array, "B m"]:
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


def _solve(fun, z0, init, propose, tol, max_steps, relative, trace, taps, differentiable, image):
    """Runs the loop of all solvers; `propose(step, z, fz, memory) -> (z_next, memory)` computes the next iterate."""
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}.")
    if not tol >= 0:
        raise ValueError(f"tol must not be negative, got {tol}.")
    if any(not 0 <= tap < max_steps for tap in taps):
        raise ValueError(f"taps must lie in [0, max_steps = {max_steps}), got {tuple(taps)}.")
    flatten, unflatten = _batch_raveler(z0)
    _check_fun(fun, z0)
    z = flatten(z0)
    batch = z.shape[0]
    dtype = _sum_dtype(z.dtype)
    tap_steps = jnp.asarray(taps, jnp.int32)

    state = _State(
        step=jnp.zeros((), jnp.int32),
        z=z,
        best=z,
        residual=jnp.full((batch,), jnp.inf, dtype),
        best_step=jnp.zeros((batch,), jnp.int32),
        active=jnp.ones((batch,), bool),
        converged=jnp.zeros((batch,), bool),
        trace=jnp.full((max_steps, batch), jnp.nan, dtype) if trace else None,
        taps=jnp.zeros((len(taps), *z.shape), z.dtype) if taps else None,
        memory=init(z),
    )

    def body(state: _State) -> _State:
        step, z, active = state.step, state.z, state.active
        running = jnp.any(active)  # false where a scan goes on after the last sample has stopped
        fz = flatten(fun(unflatten(z)))
        residual = lax.stop_gradient(_residual(z, fz, relative))
        finite = jnp.isfinite(residual)
        better = active & finite & (residual < state.residual)
        converged = active & finite & (residual <= tol)
        best = jnp.where(better[:, None], fz if image else z, state.best)
        still = active & finite & ~converged
        z_next, memory = propose(step, z, fz, state.memory)
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

    if differentiable:
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


def _residual(z, fz, relative: bool) -> Float[Array, " B"]:
    dtype = _sum_dtype(z.dtype)

    def norm(x):
        return jnp.sqrt(jnp.sum(jnp.square(x.astype(dtype)), axis=1))

    difference = norm(fz - z)
    if not relative:
        return difference
    return difference / jnp.maximum(norm(fz), jnp.finfo(dtype).tiny)


def _contract(subscripts: str, *operands: Array) -> Array:
    """einsum in full precision, summed in float32 at least, even if the hardware's default is less."""
    dtype = _sum_dtype(jnp.result_type(*operands))
    return jnp.einsum(subscripts, *operands, precision=lax.Precision.HIGHEST, preferred_element_type=dtype)


def _sum_dtype(dtype):
    """Type of sums: float32 at least."""
    return jnp.promote_types(dtype, jnp.float32)


def _batch_raveler(example: PyTree):
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
        flat = [jnp.reshape(leaf, (batch, -1)).astype(dtype) for leaf in jax.tree.leaves(tree)]
        return flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=1)

    def unflatten(flat):
        parts = jnp.split(flat, list(itertools.accumulate(sizes))[:-1], axis=1)
        reshaped = [jnp.reshape(p, s).astype(d) for p, s, d in zip(parts, shapes, dtypes, strict=True)]
        return jax.tree.unflatten(treedef, reshaped)

    return flatten, unflatten


def _check_fun(fun: Fun, z0: PyTree) -> None:
    def signature(tree):
        return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)

    given, returned = signature(z0), signature(jax.eval_shape(fun, z0))
    if given != returned:
        raise ValueError(f"fun must return what it is given: shapes and types {given}, but it returned {returned}.")


def _check_unit(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} must lie in (0, 1], got {value}.")

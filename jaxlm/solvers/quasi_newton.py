"""Broyden's method."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxlm.solvers.loop import Fun, Options, SolverStats, check_unit, contract, solve, sum_dtype


def broyden(
    fun: Fun,
    z0: PyTree,
    *,
    tol: float | Array = 1e-5,
    max_steps: int = 50,
    memory: int = 10,
    beta: float = 1.0,
    relative: bool = True,
    scale: Float[Array, " B"] | None = None,
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
    check_unit("beta", beta)
    if memory < 1:
        raise ValueError(f"memory must be at least 1, got {memory}.")
    rank = min(memory, max_steps)

    def init(z):
        low_rank = jnp.zeros((z.shape[0], rank, z.shape[1]), z.dtype)
        return low_rank, low_rank, z, jnp.zeros_like(z)

    def propose(step, z, fz, distance, memory):
        us, vs, z_prev, g_prev = memory
        g = fz - z
        dtype = sum_dtype(z.dtype)

        def apply(left, right, x):  # (−I + Σ leftᵢ rightᵢᵀ) x
            return (contract("bmn,bm->bn", left, contract("bmn,bn->bm", right, x)) - x).astype(x.dtype)

        def update(us, vs):
            used = (step - 1) % rank
            us, vs = lax.cond(used == 0, lambda: (us * 0, vs * 0), lambda: (us, vs))
            dz, dg = z - z_prev, g - g_prev
            v = apply(vs, us, dz)
            denominator = contract("bn,bn->b", v, dg)
            safe = jnp.abs(denominator) > jnp.finfo(dtype).tiny
            scale = jnp.where(safe, 1.0 / jnp.where(safe, denominator, 1.0), 0.0).astype(z.dtype)
            u = (dz - apply(us, vs, dg)) * scale[:, None]
            return us.at[:, used].set(u), vs.at[:, used].set(v)

        us, vs = lax.cond(step > 0, update, lambda us, vs: (us, vs), us, vs)
        return z - beta * apply(us, vs, g), jnp.isfinite(distance), (us, vs, z, g)

    options = Options(tol, max_steps, relative, scale, trace, taps, differentiable, image)
    return solve(fun, z0, init, propose, options)

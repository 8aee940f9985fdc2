"""Damped fixed-point iteration."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxlm.solvers.loop import Fun, Options, SolverStats, check_unit, solve


def fixed_point_iteration(
    fun: Fun,
    z0: PyTree,
    *,
    tol: float | Array = 1e-5,
    max_steps: int = 50,
    beta: float = 1.0,
    relative: bool = True,
    scale: Float[Array, " B"] | None = None,
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
        relative: divide the residual ‖f(z) − z‖ by ‖f(z)‖, or by `scale`.
        scale: (B,) what to divide the residual by instead, such as the norm of a linear system's right-hand side.
        trace: record the residual of every step in the statistics.
        taps: steps in [0, max_steps) whose iterates are kept in the statistics.
        differentiable: run as a scan, for derivatives through the iterations.
        image: return f(z) instead of the best iterate z. f(z) is one step nearer and costs no further evaluation.

    Returns:
        The best iterate of each sample, like `z0`, and the statistics.

    Raises:
        ValueError: if an option is out of range or `fun` changes shapes or types.
    """

    def propose(step, z, fz, distance, memory):
        del step
        return z + beta * (fz - z), jnp.isfinite(distance), memory

    check_unit("beta", beta)
    options = Options(tol, max_steps, relative, scale, trace, taps, differentiable, image)
    return solve(fun, z0, lambda z: (), propose, options)

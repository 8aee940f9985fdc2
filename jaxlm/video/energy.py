"""Equilibrium of a frame near that of the previous frame: Eq. (8) of Micaelli et al., CVPR 2023, by L-BFGS."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxopt import LBFGS
from jaxtyping import Array, Float, PyTree, Shaped


class EnergyStats(NamedTuple):
    """Statistics of `minimize_energy`.

    Attributes:
        num_steps: (B,) iterations of L-BFGS.
        energy: (B,) value of Eq. (8) at the returned z.
        start_residual: (B,) ‖f(z) − z‖₂ / ‖f(z)‖₂ at the equilibrium of the previous frame.
    """

    num_steps: Shaped[Array, " B"]
    energy: Float[Array, " B"]
    start_residual: Float[Array, " B"]


def energy(
    fun: Callable[[Array], Array], z: Float[Array, "B ..."], z_prev: Float[Array, "B ..."], alpha: float
) -> Float[Array, " B"]:
    """‖f(z) − z‖² + α/2 ‖z − z_prev‖² of each sample, Eq. (8) of Micaelli et al., CVPR 2023."""
    return _square(fun(z) - z) + alpha / 2 * _square(z - z_prev)


def minimize_energy(
    fun: Callable[[Any, Any], Array],
    z_prev: Float[Array, "B ..."],
    args: PyTree,
    *,
    alpha: float,
    max_steps: int = 20,
    tol: float = 1e-4,
    memory: int = 10,
) -> tuple[Float[Array, "B ..."], EnergyStats]:
    """z of the least Eq. (8) that L-BFGS reaches, each sample separately.

    It starts from the best of z_prev, f(z_prev) and f(f(z_prev)): from z_prev alone, ten steps end above two plain
    iterations, because the Jacobian is far from normal. The result is never worse than its start, and so never worse
    than one or two steps of recurrence without recurrence. z need not be heatmaps; read landmarks from f(z).

    Args:
        fun: (z, args) -> z for a batch.
        z_prev: (B, ...), equilibrium of the previous frame.
        args: inputs of `fun` for this frame, leaves (B, ...).
        alpha: α ≥ 0, weight of the distance to `z_prev`; 0 minimises the residual alone.
        max_steps: most iterations.
        tol: tolerance for the norm of the energy's gradient.
        memory: number of update pairs that L-BFGS keeps.

    Returns:
        z (B, ...) and the statistics.

    Raises:
        ValueError: if α is negative.
    """
    if not alpha >= 0:
        raise ValueError(f"alpha must not be negative, got {alpha}.")

    first = fun(z_prev, args)
    starts = jnp.stack([z_prev, first, fun(first, args)])
    values = jnp.stack([energy(lambda z: fun(z, args), z, z_prev, alpha) for z in starts])
    best = jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values), axis=0)
    start = jnp.take_along_axis(starts, best.reshape(1, -1, *[1] * (z_prev.ndim - 1)), axis=0)[0]

    def one(sample):
        start, value, previous, args = sample

        def objective(z):
            def of_batch(z):
                return fun(z, jax.tree.map(lambda leaf: leaf[None], args))

            return energy(of_batch, z[None], previous[None], alpha)[0]

        solver = LBFGS(objective, maxiter=max_steps, tol=tol, history_size=memory, maxls=10, implicit_diff=False)
        z, state = solver.run(start)
        lower = state.value < value
        return jnp.where(lower, z, start), jnp.where(lower, state.value, value), state.iter_num

    # Not vmap: it would run every branch of the line search at every step for all samples.
    z, value, steps = lax.map(one, (start, values.min(axis=0), z_prev, args))
    residual = jnp.sqrt(_square(first - z_prev)) / jnp.maximum(jnp.sqrt(_square(first)), 1e-30)
    return z, EnergyStats(steps, value, residual)


def _square(x: Float[Array, "B ..."]) -> Float[Array, " B"]:
    return jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))

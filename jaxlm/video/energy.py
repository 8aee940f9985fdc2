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

    def square(x):
        return jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))

    return square(fun(z) - z) + alpha / 2 * square(z - z_prev)


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
    """Minimises Eq. (8) by L-BFGS from the previous frame's equilibrium, each sample separately.

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

    def one(sample):
        start, args = sample

        def of_batch(z):
            return fun(z[None], jax.tree.map(lambda leaf: leaf[None], args))[0]

        def objective(z):
            return energy(lambda z: of_batch(z[0])[None], z[None], start[None], alpha)[0]

        solver = LBFGS(objective, maxiter=max_steps, tol=tol, history_size=memory, maxls=10, implicit_diff=False)
        z, state = solver.run(start)
        image = of_batch(start)
        residual = jnp.linalg.norm((image - start).ravel()) / jnp.maximum(jnp.linalg.norm(image.ravel()), 1e-30)
        return z, EnergyStats(state.iter_num, state.value, residual)

    # Not vmap: it would run every branch of the line search at every step for all samples.
    return lax.map(one, (z_prev, args))

"""Eq. (8) of Micaelli et al., CVPR 2023: the equilibrium of a frame near that of the frame before, by L-BFGS."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxopt import LBFGS
from jaxtyping import Array, Float, PyTree, Shaped


class EnergyStats(NamedTuple):
    """What `minimize_energy` reports.

    Attributes:
        num_steps: (B,) iterations of L-BFGS.
        energy: (B,) Eq. (8) at the minimum.
        start_residual: (B,) ‖f(z) − z‖₂ / ‖f(z)‖₂ at the last frame's equilibrium.
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
    """Minimises Eq. (8) by L-BFGS from the last frame's equilibrium, each sample on its own.

    Args:
        fun: (z, args) -> z for a batch.
        z_prev: (B, ...), equilibrium of the last frame.
        args: what the frame brings, leaves (B, ...).
        alpha: α ≥ 0, weight of staying where the last frame was; 0 looks for a fixed point alone.
        max_steps: most iterations.
        tol: on the gradient's norm.
        memory: pairs that L-BFGS keeps.

    Raises:
        ValueError: for a negative α.
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

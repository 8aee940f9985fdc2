"""Equilibrium of a frame near that of the previous frame: Eq. (8) of Micaelli et al., CVPR 2023, by Gauss–Newton."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

_STEP_LENGTHS = (1.0, 0.5, 0.25, 0.1, 0.0)


class EnergyStats(NamedTuple):
    """Statistics of `minimize_energy`.

    Attributes:
        energy: (B,) value of Eq. (8) at the returned z.
        start: (B,) its value at the iterate that the minimisation started from.
        start_residual: (B,) ‖f(z) − z‖₂ / ‖f(z)‖₂ at the equilibrium of the previous frame.
    """

    energy: Float[Array, " B"]
    start: Float[Array, " B"]
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
    max_steps: int = 3,
    inner_steps: int = 10,
) -> tuple[Float[Array, "B ..."], EnergyStats]:
    """z of the least Eq. (8) that a few Gauss–Newton steps reach, each sample by itself.

    Both terms are squares, so a step solves (GᵀG + α/2) δ = −Gᵀg − α/2 (z − z_prev), with g = f(z) − z and its
    derivative G, by conjugate gradients, and takes the best of a few step lengths. The paper takes L-BFGS; from the
    previous equilibrium alone, ten of its steps end above two plain iterations. Here the start is the best of z_prev,
    f(z_prev) and f(f(z_prev)): the result is never worse than one or two steps of recurrence without recurrence.

    Args:
        fun: (z, args) -> z for a batch.
        z_prev: (B, ...), equilibrium of the previous frame.
        args: inputs of `fun` for this frame, leaves (B, ...).
        alpha: α ≥ 0, weight of the distance to `z_prev`; 0 minimises the residual alone.
        max_steps: Gauss–Newton steps, at least 0.
        inner_steps: conjugate gradient steps in each, at least 1.

    Returns:
        z (B, ...) and the statistics.

    Raises:
        ValueError: if α is negative or there are too few steps.
    """
    if not alpha >= 0:
        raise ValueError(f"alpha must not be negative, got {alpha}.")
    if max_steps < 0 or inner_steps < 1:
        raise ValueError(f"max_steps must be at least 0 and inner_steps 1, got {max_steps} and {inner_steps}.")

    first = fun(z_prev, args)
    starts = jnp.stack([z_prev, first, fun(first, args)])
    values = jnp.stack([energy(lambda z: fun(z, args), z, z_prev, alpha) for z in starts])
    best = jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values), axis=0)
    start = jnp.take_along_axis(starts, best.reshape(1, -1, *[1] * (z_prev.ndim - 1)), axis=0)[0]

    def one(sample):
        z, previous, args = sample

        def image(z):
            return fun(z[None], jax.tree.map(lambda leaf: leaf[None], args))[0]

        def step(z, _):
            g, derivative = jax.linearize(lambda z: image(z) - z, z)
            transposed = jax.linear_transpose(derivative, z)
            slope = transposed(g)[0] + alpha / 2 * (z - previous)
            change, _ = jax.scipy.sparse.linalg.cg(
                lambda v: transposed(derivative(v))[0] + alpha / 2 * v, -slope, maxiter=inner_steps
            )
            candidates = jnp.stack([z + length * change for length in _STEP_LENGTHS])
            values = lax.map(
                lambda z: energy(lambda z: image(z[0])[None], z[None], previous[None], alpha)[0], candidates
            )
            return candidates[jnp.argmin(jnp.where(jnp.isnan(values), jnp.inf, values))], None

        return lax.scan(step, z, None, length=max_steps)[0]

    # Not vmap: each sample has its own number of conjugate gradient steps.
    z = lax.map(one, (start, z_prev, args))
    residual = jnp.sqrt(_square(first - z_prev)) / jnp.maximum(jnp.sqrt(_square(first)), 1e-30)
    return z, EnergyStats(energy(lambda z: fun(z, args), z, z_prev, alpha), values.min(axis=0), residual)


def _square(x: Float[Array, "B ..."]) -> Float[Array, " B"]:
    return jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))

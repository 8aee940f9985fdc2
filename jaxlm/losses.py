"""Losses, elementwise and unreduced; `masked_mean` reduces them over what exists."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


def mse(pred: Float[Array, "*S"], target: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """Squared error."""
    return jnp.square(pred - target)


def l1(pred: Float[Array, "*S"], target: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """Absolute error; its gradient at zero error is zero."""
    error = pred - target
    return error * lax.stop_gradient(jnp.sign(error))  # jnp.abs has slope 1 at 0


def smooth_l1(pred: Float[Array, "*S"], target: Float[Array, "*S"], beta: float = 1.0) -> Float[Array, "*S"]:
    """Quadratic below `beta`, linear above, continuous slope (Girshick, ICCV 2015)."""
    error = jnp.abs(pred - target)
    return jnp.where(error < beta, 0.5 * jnp.square(error) / beta, error - 0.5 * beta)


LANDMARK_LOSSES = {"mse": mse, "l1": l1, "smooth_l1": smooth_l1}


def masked_mean(values: Float[Array, "*S"], mask: Bool[Array, "*S"]) -> Float[Array, ""]:
    """Mean over the true entries of `mask`; 0 with gradient 0 where there is none, whatever the masked values are."""
    total = jnp.sum(jnp.where(mask, values, 0.0))
    return total / jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)

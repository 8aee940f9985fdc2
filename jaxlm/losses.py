"""Elementwise losses. `masked_mean` averages them over the entries that exist."""

import functools
import math

import jax
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
    """Smooth L1 loss (Girshick, ICCV 2015): quadratic below `beta`, linear above, with a continuous slope."""
    error = jnp.abs(pred - target)
    return jnp.where(error < beta, 0.5 * jnp.square(error) / beta, error - 0.5 * beta)


def wing(
    pred: Float[Array, "*S"], target: Float[Array, "*S"], omega: float = 10.0, epsilon: float = 2.0
) -> Float[Array, "*S"]:
    """Wing loss (Feng et al., CVPR 2018), Eq. (2) of Wang et al., ICCV 2019.

    The loss is ω ln(1 + |d|/ε) where the error |d| is below ω, and |d| − C elsewhere; C makes it continuous. The
    gradient is set to zero at zero error; next to zero error its magnitude is ω/ε.
    """
    error = l1(pred, target)
    offset = omega - omega * math.log1p(omega / epsilon)
    return jnp.where(error < omega, omega * jnp.log1p(error / epsilon), error - offset)


def adaptive_wing(
    pred: Float[Array, "*S"],
    target: Float[Array, "*S"],
    *,
    alpha: float = 2.1,
    omega: float = 14.0,
    epsilon: float = 1.0,
    theta: float = 0.5,
) -> Float[Array, "*S"]:
    """Adaptive Wing loss of heatmap pixels, Eq. (3) of Wang et al., ICCV 2019.

    The loss is ω ln(1 + |d/ε|^(α − y)) where the error |d| is below θ, and A|d| − C elsewhere; A and C make value and
    slope continuous. The exponent, A and C depend on the target y. No gradient flows through y.

    Args:
        pred: predicted heatmaps.
        target: target heatmaps y in [0, 1].
        alpha: α > 2, so that the loss is smooth at zero error even where y is 1.
        omega: ω > 0, strength for small errors.
        epsilon: ε > 0, width around zero error in which the slope vanishes.
        theta: θ > 0, error at which the loss becomes linear.

    Returns:
        Loss of each pixel. With the default options it is 8.4959 for prediction 1 and target 0, and 10.2594 for
        prediction 0 and target 1.
    """
    return _adaptive_wing(pred, target, alpha, omega, epsilon, theta)


# The explicit derivative keeps one map for the backward pass instead of four, and it is finite at zero error.
@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4, 5))
def _adaptive_wing(pred, target, alpha, omega, epsilon, theta):
    error, exponent = jnp.abs(pred - target), alpha - target
    power = (theta / epsilon) ** exponent
    slope = omega * exponent * power / (theta * (1.0 + power))
    curved = omega * jnp.log1p((error / epsilon) ** exponent)
    return jnp.where(error < theta, curved, slope * (error - theta) + omega * jnp.log1p(power))


@_adaptive_wing.defjvp
def _(alpha, omega, epsilon, theta, primals, tangents):
    pred, target = primals
    error, exponent = jnp.minimum(jnp.abs(pred - target), theta), alpha - target
    power = (error / epsilon) ** (exponent - 1.0)
    slope = omega * exponent * power / (epsilon * (1.0 + power * error / epsilon))
    value = _adaptive_wing(pred, target, alpha, omega, epsilon, theta)
    return value, jnp.sign(pred - target) * slope * tangents[0]


def loss_map_weight(
    target: Float[Array, "*B H W K"], *, weight: float = 10.0, threshold: float = 0.2
) -> Float[Array, "*B H W K"]:
    """Weighted loss map W·M + 1, Eqs. (4)–(5) of Wang et al., ICCV 2019, to be multiplied with a pixel loss.

    Args:
        target: heatmaps in [0, 1].
        weight: W, the extra weight of the mask's pixels; 0 gives all pixels the same weight.
        threshold: the mask M is true where the heatmap after a 3 × 3 grey dilation is at least this.
    """
    window = (1,) * (target.ndim - 3) + (3, 3, 1)
    dilated = lax.reduce_window(target, -jnp.inf, lax.max, window, (1,) * target.ndim, "SAME")
    return lax.stop_gradient(weight * (dilated >= threshold).astype(target.dtype) + 1.0)


def baseline_weight(target: Float[Array, "*B H W K"], *, weight: float = 10.0) -> Float[Array, "*B H W K"]:
    """Baseline weight map H·W + 1 of the heatmaps H, WM_base in Table 7 of Wang et al., ICCV 2019."""
    return lax.stop_gradient(weight * target + 1.0)


def adaptive_landmark_weight(
    error: Float[Array, "B *S"], mask: Bool[Array, "B *S"] | None = None
) -> Float[Array, "B *S"]:
    """Weight of every landmark coordinate, Eq. (9) of Shao et al., TPAMI 2021: exp(−σ|z − μ|).

    μ and σ are the mean and the standard deviation of each coordinate's error over the batch, which is the global batch
    if it is split over devices. No gradient flows through the weights.

    Args:
        error: z of each sample. The weights depend on its unit.
        mask: true where the landmark exists; the others do not enter the statistics and get the weight 0.

    Returns:
        Weights in (0, 1], or 0 where the landmark does not exist.
    """
    error = lax.stop_gradient(error)
    exists = jnp.ones_like(error) if mask is None else mask.astype(error.dtype)
    count = jnp.maximum(exists.sum(axis=0, keepdims=True), 1.0)
    error = jnp.where(exists > 0, error, 0.0)
    mean = error.sum(axis=0, keepdims=True) / count
    deviation = jnp.sqrt((exists * jnp.square(error - mean)).sum(axis=0, keepdims=True) / count)
    return exists * jnp.exp(-deviation * jnp.abs(error - mean))


def adaptive_l1(
    pred: Float[Array, "B *S"],
    target: Float[Array, "B *S"],
    mask: Bool[Array, "B *S"] | None = None,
    *,
    unit: float = 1.0,
) -> Float[Array, "B *S"]:
    """Adaptive landmark-weighted loss, Eq. (8) of Shao et al., TPAMI 2021: w|z|.

    Args:
        pred: landmark coordinates.
        target: ground truth in the same unit.
        mask: true where the landmark exists.
        unit: factor that converts the errors to the unit of Eq. (9). For coordinates divided by the inter-ocular
            distance, 100 converts them to percent of it.
    """
    return adaptive_landmark_weight(unit * (pred - target), mask) * l1(pred, target)


_PLAIN = {"mse": mse, "l1": l1, "smooth_l1": smooth_l1, "wing": wing}
LANDMARK_LOSSES = _PLAIN | {"adaptive_l1": adaptive_l1}
HEATMAP_LOSSES = _PLAIN | {"adaptive_wing": adaptive_wing}


def masked_mean(values: Float[Array, "*S"], mask: Bool[Array, "*S"]) -> Float[Array, ""]:
    """Mean of `values` where `mask` is true; 0 with gradient 0 if it is true nowhere. Masked values are ignored."""
    total = jnp.sum(jnp.where(mask, values, 0.0))
    return total / jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)

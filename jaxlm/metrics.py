"""Metrics of alignment. Errors are fractions here (0.05 is 5 %); tables and JSON print percent."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num


def nme(
    pred: Float[Array | np.ndarray, "B K 2"],
    target: Float[Array | np.ndarray, "B K 2"],
    normalizer: Float[Array | np.ndarray, " B"],
    mask: Bool[Array | np.ndarray, "B K"] | None = None,
) -> Float[Array, " B"]:
    """Normalised mean error of each face, Eq. (10a) of Micaelli et al., CVPR 2023.

    Args:
        pred: landmarks in pixels.
        target: ground truth in the same pixels.
        normalizer: length in the same pixels, inter-ocular for instance.
        mask: true where a landmark exists; all where None.

    Returns:
        Mean distance over the existing landmarks, divided by the normaliser; NaN where no landmark exists or the
        normaliser is 0, so that such a face cannot pass for a good one; infinite where a prediction is not finite.
    """
    distance = jnp.linalg.norm(jnp.asarray(pred) - jnp.asarray(target), axis=-1)
    distance = jnp.where(jnp.isfinite(distance), distance, jnp.inf)
    exists = jnp.ones(distance.shape, bool) if mask is None else jnp.asarray(mask)
    count = exists.sum(axis=-1)
    total = jnp.where(exists, distance, 0.0).sum(axis=-1)
    usable = (count > 0) & (normalizer > 0)
    length = jnp.where(usable, jnp.asarray(normalizer) * count, 1.0)
    return jnp.where(usable, total / length, jnp.nan)


def failure_rate(nme: Num[Array | np.ndarray, " N"], threshold: float) -> float:
    """Fraction of faces with an NME above `threshold` (FR10: 0.1). NaNs are left out; NaN for no face."""
    values = _present(nme)
    return float((values > threshold).mean()) if len(values) else float("nan")


def auc(nme: Num[Array | np.ndarray, " N"], threshold: float) -> float:
    """Area under the cumulative error curve up to `threshold`, over `threshold`: in [0, 1].

    The curve of n faces is a staircase, so its integral is exact: the mean of max(0, 1 − nme/threshold).
    """
    values = _present(nme)
    return float(np.maximum(0.0, 1.0 - values / threshold).mean()) if len(values) else float("nan")


def mean(values: Num[Array | np.ndarray, " N"]) -> float:
    """Mean over what is not NaN; NaN for nothing."""
    present = _present(values)
    return float(present.mean()) if len(present) else float("nan")


def _present(values) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return values[~np.isnan(values)]

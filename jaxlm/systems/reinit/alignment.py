"""Least-squares maps between landmark shapes, the map to a normalised face, and the mean shape of a training set.

Shapes are (..., K, 2) in any unit. A weight (..., K) of 0 marks a missing landmark. The maps are differentiable, and
finite even if the landmarks do not determine them.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxlm import geometry

Kind = Literal["affine", "similarity"]
_COLLINEAR = 1e-4  # ratio of determinant to squared trace below which points count as collinear


def fit_similarity(
    source: Float[Array, "*B K 2"], target: Float[Array, "*B K 2"], weight: Float[Array, "*B K"]
) -> Float[Array, "*B 2 3"]:
    """Least-squares similarity from source to target; a translation if all source points coincide."""
    source_mean, target_mean, s, t = _centered(source, target, weight)
    spread = (weight[..., None] * s * s).sum(axis=(-1, -2))
    cos = (weight[..., None] * s * t).sum(axis=(-1, -2))
    sin = (weight * (s[..., 0] * t[..., 1] - s[..., 1] * t[..., 0])).sum(axis=-1)
    safe = jnp.where(spread > 0, spread, 1.0)
    cos, sin = jnp.where(spread > 0, cos / safe, 1.0), sin / safe
    linear = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
    return _with_offset(linear, source_mean, target_mean)


def fit_affine(
    source: Float[Array, "*B K 2"], target: Float[Array, "*B K 2"], weight: Float[Array, "*B K"]
) -> Float[Array, "*B 2 3"]:
    """Least-squares affine map from source to target; a similarity if the source points lie on one line."""
    source_mean, target_mean, s, t = _centered(source, target, weight)
    weighted = (weight[..., None] * s).swapaxes(-1, -2)
    moments, cross = weighted @ s, weighted @ t
    a, b, d = moments[..., 0, 0], moments[..., 0, 1], moments[..., 1, 1]
    determinant = a * d - b * b
    spread = determinant > _COLLINEAR * (a + d) ** 2
    safe = jnp.where(spread, determinant, 1.0)
    inverse = jnp.stack([jnp.stack([d, -b], -1), jnp.stack([-b, a], -1)], -2) / safe[..., None, None]
    matrix = _with_offset((inverse @ cross).swapaxes(-1, -2), source_mean, target_mean)
    return jnp.where(spread[..., None, None], matrix, fit_similarity(source, target, weight))


def _centered(source, target, weight):
    total = jnp.maximum(weight.sum(axis=-1), jnp.finfo(weight.dtype).tiny)[..., None]
    source_mean = (weight[..., None] * source).sum(axis=-2) / total
    target_mean = (weight[..., None] * target).sum(axis=-2) / total
    return source_mean, target_mean, source - source_mean[..., None, :], target - target_mean[..., None, :]


def _with_offset(linear, source_mean, target_mean):
    offset = target_mean[..., None] - linear @ source_mean[..., None]
    return jnp.concatenate([linear, offset], axis=-1)


def bounding_box(
    landmarks: Float[Array, "*B K 2"], mask: Bool[Array, "*B K"]
) -> tuple[Float[Array, "*B 2"], Float[Array, "*B 2"]]:
    """Centre and half sides of the box around the landmarks that exist; not finite if none exists."""
    low = jnp.where(mask[..., None], landmarks, jnp.inf).min(axis=-2)
    high = jnp.where(mask[..., None], landmarks, -jnp.inf).max(axis=-2)
    return (low + high) / 2, (high - low) / 2


def normalizing_map(
    landmarks: Float[Array, "*B K 2"],
    mask: Bool[Array, "*B K"],
    reference: Float[Array, "K 2"],
    *,
    kind: Kind = "affine",
    margin: float = 1.2,
) -> tuple[Float[Array, "*B 2 3"], Bool[Array, "*B"]]:
    """Map to the normalised state: the inverse of θ* of Algorithm 1, Shao et al., TPAMI 2021.

    The landmarks are fitted to the reference (θ_int). The box around the fitted landmarks, times `margin`, becomes
    [−1, 1]². With a similarity the box is a square.

    Args:
        landmarks: landmarks in the unit of the image to be normalised.
        mask: true where a landmark exists.
        reference: frontal mean shape, in any unit.
        kind: type of the map, "affine" or "similarity".
        margin: side of the normalised state divided by the side of the landmarks' box.

    Returns:
        The map from the landmarks' unit to [−1, 1]², and whether the landmarks determine it. The map is the identity if
        they do not.
    """
    fit = fit_affine if kind == "affine" else fit_similarity
    weight = mask.astype(landmarks.dtype)
    landmarks = jnp.where(mask[..., None], landmarks, 0.0)
    intermediate = fit(landmarks, jnp.broadcast_to(reference, landmarks.shape), weight)
    center, half = bounding_box(geometry.apply_affine(intermediate, landmarks), mask)
    if kind == "similarity":
        half = jnp.broadcast_to(half.max(axis=-1, keepdims=True), half.shape)
    usable = (mask.sum(axis=-1) >= 2) & (half > 1e-6).all(axis=-1) & jnp.isfinite(half).all(axis=-1)
    center, half = (jnp.where(usable[..., None], value, 1.0) for value in (center, half))
    scale = 1.0 / (margin * half)
    matrix = jnp.concatenate(
        [intermediate[..., :2] * scale[..., None], ((intermediate[..., 2] - center) * scale)[..., None]], axis=-1
    )
    identity = jnp.eye(2, 3, dtype=matrix.dtype)
    return jnp.where(usable[..., None, None], matrix, identity), usable


def mean_shape(landmarks: np.ndarray, mask: np.ndarray, flip: np.ndarray, *, rounds: int = 10) -> np.ndarray:
    """Frontal mean shape of a training set, by generalised Procrustes analysis.

    Every shape is used together with its mirror image, so the mean is symmetric and therefore frontal.

    Args:
        landmarks: (N, K, 2) in each image's pixels.
        mask: (N, K), true where a landmark exists.
        flip: (K,) permutation of a mirror image, see `jaxlm.schemes.Scheme.flip`.
        rounds: how many times all shapes are aligned to their mean.

    Returns:
        (K, 2) mean shape whose bounding box is [−1, 1]².

    Raises:
        ValueError: if a landmark exists in no shape.
    """
    if not mask.any(axis=0).all():
        missing = ", ".join(map(str, np.flatnonzero(~mask.any(axis=0))))
        raise ValueError(f"The mean shape needs every landmark in some training face; none has landmarks {missing}.")
    shapes = np.where(mask[..., None], landmarks, 0.0)
    shapes = np.concatenate([shapes, shapes[:, flip] * np.array([-1.0, 1.0])]).astype(np.float32)
    weight = np.concatenate([mask, mask[:, flip]]).astype(np.float32)
    first = np.argmax(weight.sum(axis=1))
    mean, known = shapes[first], weight[first]
    for _ in range(rounds):
        maps = fit_similarity(jnp.asarray(shapes), jnp.broadcast_to(mean, shapes.shape), jnp.asarray(weight * known))
        fitted = np.asarray(geometry.apply_affine(maps, jnp.asarray(shapes)))
        mean = (weight[..., None] * fitted).sum(axis=0) / weight.sum(axis=0)[:, None]
        mean = mean - mean.mean(axis=0)
        # Symmetrised, so that the mean is upright even if the first shape is rotated.
        mean = (mean + mean[flip] * np.array([-1.0, 1.0], mean.dtype)) / 2
        mean, known = mean / np.sqrt(np.square(mean).mean()), np.ones_like(known)
    low, high = mean.min(axis=0), mean.max(axis=0)
    return (2 * (mean - low) / (high - low) - 1).astype(np.float32)

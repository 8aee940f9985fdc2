"""Fits between landmark shapes: least-squares maps, the normalised state of a face, and the mean shape of many.

Shapes are (..., K, 2) in any unit; a weight (..., K) of 0 marks a missing landmark. Everything is differentiable and
stays finite where the landmarks do not determine a map.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxlm import geometry

Kind = Literal["affine", "similarity"]
_COLLINEAR = 1e-4  # ratio of determinant to squared trace below which points count as one line


def fit_similarity(
    source: Float[Array, "*B K 2"], target: Float[Array, "*B K 2"], weight: Float[Array, "*B K"]
) -> Float[Array, "*B 2 3"]:
    """Least-squares rotation, scale and translation source → target; a translation where all points coincide."""
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
    """Least-squares affine map source → target; a similarity where the points lie on one line."""
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
    """Centre and half sides of the box around the landmarks that exist; without any, of nothing finite."""
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
    """Algorithm 1 of Shao et al., TPAMI 2021: the map to the normalised state, the inverse of its θ*.

    The landmarks are fitted to the reference (θ_int); the box around the fitted landmarks times `margin` then becomes
    [−1, 1]². With a similarity the box is a square.

    Args:
        landmarks: in the unit of the image that is to be normalised.
        mask: true where a landmark exists.
        reference: frontal mean shape, in any unit.
        kind: of map.
        margin: side of the normalised state over that of the landmarks' box.

    Returns:
        The map, landmarks' unit → [−1, 1]², and whether the landmarks determine it; the identity where not.
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

    Every shape counts together with its mirror image, which makes the mean symmetric, hence frontal.

    Args:
        landmarks: (N, K, 2) in each image's pixels.
        mask: (N, K), true where a landmark exists.
        flip: (K,) permutation of a mirror image, see `jaxlm.schemes.Scheme.flip`.
        rounds: of aligning all shapes to their mean.

    Returns:
        (K, 2) with the box around it [−1, 1]².

    Raises:
        ValueError: if some landmark exists in no shape.
    """
    if not mask.any(axis=0).all():
        missing = ", ".join(map(str, np.flatnonzero(~mask.any(axis=0))))
        raise ValueError(f"No training face has the landmarks {missing}, so there is no mean shape.")
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
        # Its own mirror image: upright, whichever way the first shape was turned.
        mean = (mean + mean[flip] * np.array([-1.0, 1.0], mean.dtype)) / 2
        mean, known = mean / np.sqrt(np.square(mean).mean()), np.ones_like(known)
    low, high = mean.min(axis=0), mean.max(axis=0)
    return (2 * (mean - low) / (high - low) - 1).astype(np.float32)

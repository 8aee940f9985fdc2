"""Landmark metrics. Errors are fractions here (0.05 is 5 %); tables and JSON files give percent."""

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
        normalizer: length in the same pixels, e.g. the inter-ocular distance.
        mask: true where a landmark exists; all where None.

    Returns:
        Mean distance over the existing landmarks, divided by the normaliser. It is NaN where no landmark exists or the
        normaliser is 0, so that such a face never counts as good, and infinite where a prediction is not finite.
    """
    errors = point_errors(pred, target, normalizer, mask)
    exists = ~jnp.isnan(errors)
    count = exists.sum(axis=-1)
    total = jnp.where(exists, errors, 0.0).sum(axis=-1)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def point_errors(
    pred: Float[Array | np.ndarray, "B K 2"],
    target: Float[Array | np.ndarray, "B K 2"],
    normalizer: Float[Array | np.ndarray, " B"],
    mask: Bool[Array | np.ndarray, "B K"] | None = None,
) -> Float[Array, "B K"]:
    """Error of each landmark, divided by the normaliser. The arguments are those of `nme`.

    Returns:
        Fractions; NaN where the landmark does not exist or the normaliser is 0, infinite where the prediction is not
        finite.
    """
    distance = jnp.linalg.norm(jnp.asarray(pred) - jnp.asarray(target), axis=-1)
    distance = jnp.where(jnp.isfinite(distance), distance, jnp.inf)
    length = jnp.asarray(normalizer)[:, None]
    usable = jnp.broadcast_to(length > 0, distance.shape)
    if mask is not None:
        usable &= jnp.asarray(mask)
    return jnp.where(usable, distance / jnp.where(length > 0, length, 1.0), jnp.nan)


def pck(errors: Float[Array | np.ndarray, "N K"], threshold: float) -> float:
    """Percentage of correct keypoints (Yang & Ramanan, TPAMI 2013): fraction of errors up to `threshold`.

    Args:
        errors: error of each landmark as `point_errors` returns it; the normaliser of PCK@0.2 on LSP is the torso's
            length. NaNs are left out.
        threshold: largest error of a correct landmark: 0.2 for PCK@0.2.

    Returns:
        Fraction in [0, 1]; NaN if all errors are NaN.
    """
    values = _present(errors)
    return float((values <= threshold).mean()) if len(values) else float("nan")


def flicker(
    pred: Float[Array | np.ndarray, "T K 2"],
    target: Float[Array | np.ndarray, "T K 2"],
    mask: Bool[Array | np.ndarray, "T K"] | None = None,
) -> Float[Array, " T"]:
    """Flicker of each frame against the previous one, Eq. (11a) of Micaelli et al., CVPR 2023.

    Args:
        pred: landmarks of one video in pixels.
        target: ground truth in the same pixels.
        mask: true where a landmark exists; all where None.

    Returns:
        Root mean square over the landmarks of ‖rₙ − rₙ₋₁‖ / d₁, a fraction of the face's size. r is target minus
        prediction, and d₁² is the area of the box around the frame's ground truth. NaN at the first frame, where no
        landmark exists in both frames and where that box has no area; infinite where a prediction is not finite.
    """
    pred, target = jnp.asarray(pred), jnp.asarray(target)
    exists = jnp.ones(target.shape[:2], bool) if mask is None else jnp.asarray(mask)
    residual = jnp.where(exists[..., None], target - pred, 0.0)
    squares = jnp.sum(jnp.square(residual[1:] - residual[:-1]), axis=-1)
    squares = jnp.where(jnp.isfinite(squares), squares, jnp.inf)
    both = exists[1:] & exists[:-1]
    count, area = both.sum(axis=-1), _face_area(target, exists)[1:]
    usable = (count > 0) & (area > 0)
    mean_square = jnp.where(both, squares, 0.0).sum(axis=-1) / jnp.where(usable, count * area, 1.0)
    values = jnp.where(usable, jnp.sqrt(mean_square), jnp.nan)
    return jnp.concatenate([jnp.full((min(1, target.shape[0]),), jnp.nan, values.dtype), values])


def nmf(
    pred: Float[Array | np.ndarray, "T K 2"],
    target: Float[Array | np.ndarray, "T K 2"],
    mask: Bool[Array | np.ndarray, "T K"] | None = None,
    *,
    variant: str = "released",
) -> float:
    """Normalised mean flicker of one video.

    Args:
        pred: landmarks in pixels.
        target: ground truth in the same pixels.
        mask: true where a landmark exists; all where None.
        variant: "paper" is Eq. (11b) of Micaelli et al., CVPR 2023: the root of (the sum of squared flickers of the
            frames / N), N the number of frames; a fraction. "released" is the number that the authors' program computes
            and their tables show: 100 times the root mean square over the N − 1 pairs of frames, in pixels of a face of
            256 × 256.

    Returns:
        NMF in the unit of the variant; NaN if no two consecutive frames have landmarks.

    Raises:
        ValueError: if `variant` is neither of the two.
    """
    if variant not in ("released", "paper"):
        raise ValueError(f'variant must be "released" or "paper", got {variant!r}.')
    values = np.asarray(flicker(pred, target, mask), np.float64)
    pairs = ~np.isnan(values)
    if not pairs.any():
        return float("nan")
    total = np.sum(np.square(values[pairs]))
    if variant == "released":
        return float(100 * 256 * np.sqrt(total / pairs.sum()))
    # Frames without landmarks split a video into runs; a run of n frames has n − 1 pairs.
    frames = pairs.sum() + np.sum(pairs & ~np.concatenate([[False], pairs[:-1]]))
    return float(np.sqrt(total / frames))


def stability(
    pred: Float[Array | np.ndarray, "T K 2"],
    target: Float[Array | np.ndarray, "T K 2"],
    mask: Bool[Array | np.ndarray, "T K"] | None = None,
) -> float:
    """Stability of one video, section 3.1 of Guo et al. (3DDFA_V2), ECCV 2020; lower is more stable.

    The mean over landmarks and frames of the distance between the predicted and the true motion since the previous
    frame is divided by √(w·h) of the box around the frame's ground truth: a fraction. NaN if no two consecutive frames
    have landmarks.
    """
    pred, target = jnp.asarray(pred), jnp.asarray(target)
    exists = jnp.ones(target.shape[:2], bool) if mask is None else jnp.asarray(mask)
    both = exists[1:] & exists[:-1]
    size = jnp.sqrt(_face_area(target, exists)[1:])
    length = jnp.where(size > 0, size, jnp.nan)
    return mean(np.asarray(nme(pred[1:] - pred[:-1], target[1:] - target[:-1], length, both)))


def jitter(pred: Float[Array | np.ndarray, "T K 2"]) -> float:
    """Jitter of the landmarks of one video, computed without ground truth; lower is steadier.

    The mean of the landmarks is subtracted in each frame. The jitter is the root mean square, over frames and
    landmarks, of the second differences over time, divided by √(w·h) of the box around the frame's landmarks: a
    fraction. Frames with a NaN (a lost face) are left out. NaN if no three consecutive frames are left.
    """
    pred = np.asarray(pred, np.float64)
    size = np.sqrt(np.prod(pred.max(axis=1) - pred.min(axis=1), axis=-1))
    shape = pred - pred.mean(axis=1, keepdims=True)
    bend = (shape[2:] - 2 * shape[1:-1] + shape[:-2]) / size[1:-1, None, None]
    squares = np.square(bend).sum(axis=-1).mean(axis=-1)
    return float(np.sqrt(mean(squares)))


def _face_area(target: Float[Array, "T K 2"], exists: Bool[Array, "T K"]) -> Float[Array, " T"]:
    """Area w·h of the box around each frame's existing landmarks; 0 where there are none."""
    low = jnp.where(exists[..., None], target, jnp.inf).min(axis=1)
    high = jnp.where(exists[..., None], target, -jnp.inf).max(axis=1)
    return jnp.where(exists.any(axis=1), jnp.prod(high - low, axis=-1), 0.0)


def failure_rate(nme: Num[Array | np.ndarray, " N"], threshold: float) -> float:
    """Fraction of faces with an NME above `threshold` (FR10: 0.1). NaNs are left out; NaN if no face is left."""
    values = _present(nme)
    return float((values > threshold).mean()) if len(values) else float("nan")


def auc(nme: Num[Array | np.ndarray, " N"], threshold: float) -> float:
    """Area under the cumulative error curve up to `threshold`, divided by `threshold`: in [0, 1].

    The curve is a step function, so the result is exactly the mean of max(0, 1 − nme/threshold). NaNs are left out; NaN
    if no face is left.
    """
    values = _present(nme)
    return float(np.maximum(0.0, 1.0 - values / threshold).mean()) if len(values) else float("nan")


def mean(values: Num[Array | np.ndarray, " N"]) -> float:
    """Mean of the values that are not NaN; NaN if there are none."""
    present = _present(values)
    return float(present.mean()) if len(present) else float("nan")


def paired_difference(
    values: Num[Array | np.ndarray, "S N"],
    reference: Num[Array | np.ndarray, "S N"],
    *,
    draws: int = 4000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean of `values` − `reference`, and the ends of its 95 % bootstrap interval.

    Every draw takes as many trainings and as many samples, with replacement; the two of a pair stay together (Efron &
    Tibshirani, 1993). One training's interval speaks of the samples alone.

    Args:
        values: S trainings (seeds) by N samples, such as the NME of each face; pairs with a NaN are left out.
        reference: of the same samples; its trainings are paired in order, by their seeds.
        draws: number of resamples.
        seed: of the resampling.

    Raises:
        ValueError: if no sample is finite in every training.
    """
    difference = np.asarray(values, np.float64) - np.asarray(reference, np.float64)
    difference = difference[:, np.isfinite(difference).all(axis=0)]
    if difference.size == 0:
        raise ValueError("No sample has a finite value in every training.")
    rng = np.random.default_rng(seed)
    trainings, samples = difference.shape
    means = np.empty(draws)
    for i in range(draws):
        chosen = difference[rng.integers(trainings, size=trainings)].mean(axis=0)
        means[i] = chosen[rng.integers(samples, size=samples)].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def relative_change(
    values: Num[Array | np.ndarray, " N"],
    reference: Num[Array | np.ndarray, " N"],
    *,
    draws: int = 4000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Change from the mean of `reference` to that of `values`, as a fraction, and the ends of its 95 % interval.

    The interval is that of a paired bootstrap over the samples, as in `paired_difference`.

    Args:
        values: of N samples, such as the NME of each clip; pairs with a NaN are left out.
        reference: of the same samples.
        draws: number of resamples.
        seed: of the resampling.

    Raises:
        ValueError: if no pair is finite.
    """
    pairs = np.stack([np.asarray(values, np.float64), np.asarray(reference, np.float64)])
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    if pairs.size == 0:
        raise ValueError("No sample has both values.")
    count = pairs.shape[1]
    chosen = np.random.default_rng(seed).integers(count, size=(draws, count))
    ours, theirs = pairs[:, chosen].mean(axis=2)
    low, high = np.quantile(ours / theirs - 1, [0.025, 0.975])
    ours, theirs = pairs.mean(axis=1)
    return float(ours / theirs - 1), float(low), float(high)


def _present(values) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return values[~np.isnan(values)]

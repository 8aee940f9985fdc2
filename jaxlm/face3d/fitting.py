"""Fits morphable models to 2D landmarks, so that any landmark data set can train the regression of parameters.

The fit is the maximum a posteriori, found by Levenberg–Marquardt (jaxopt) over pose and coefficients, a batch of faces
at once. The cost is the sum of the squared distances of the projected landmarks, in face sizes, and of the squared
coefficients, in standard deviations, times the squared noise of an annotation.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
from jaxtyping import Array, Float

from jaxlm.face3d import parameters
from jaxlm.face3d.morphable import MorphableModel
from jaxlm.schemes import FACES68
from jaxlm.support.progress import progress

VERSION = 1  # of the fits; raise it when their results change, so that cached fits are computed again
_START_YAWS = (-75.0, -45.0, -20.0, 0.0, 20.0, 45.0, 75.0)
NOISE = 0.015  # standard deviation of an annotation, in face sizes
FEWEST = 6  # number of landmarks that a fit needs
_OCCLUDED = 0.5  # weight of an occluded landmark, whose position the annotator guessed


class Fit(NamedTuple):
    """Fitted faces.

    Attributes:
        params: (N, P) parameters in the frame of the pictures, see `jaxlm.face3d.parameters`.
        residual: (N,) mean distance between fitted and given landmarks, in face sizes (√(w·h) of the landmarks' box),
            over the landmarks of weight 0.5 or more.
        residual_all: (N,) mean distance over all landmarks that exist, including the hidden contour.
    """

    params: np.ndarray
    residual: np.ndarray
    residual_all: np.ndarray


def fit_landmarks(
    landmarks: np.ndarray,
    mask: np.ndarray,
    visibility: np.ndarray,
    model: MorphableModel,
    *,
    contour: str = "2d",
    batch_size: int = 512,
    show_progress: bool = False,
) -> Fit:
    """Fits the model to the landmarks of N faces.

    Args:
        landmarks: (N, 68, 2) in pixels.
        mask: (N, 68), true where a landmark exists.
        visibility: (N, 68), 1 visible, 0 occluded. The distances of occluded landmarks have weight 0.5.
        model: model of the 68 landmarks only, as `jaxlm.face3d.morphable.landmark_model` makes it.
        contour: "2d" if the annotations put the hidden half of the contour on the face's outline, as in most data sets:
            the weight of that half falls from 1 at 10° of yaw to 0 at 25°. "3d" if the annotations follow the jaw: the
            whole contour has full weight.
        batch_size: largest number of faces that are fitted at once.
        show_progress: whether to show a progress bar.

    Returns:
        Parameters and residuals of the N faces.

    Raises:
        ValueError: if `contour` is unknown, the model does not have 68 vertices, there is no face, or a face has fewer
            than 6 landmarks.
    """
    if contour not in ("2d", "3d"):
        raise ValueError(f'contour must be "2d" or "3d", got {contour!r}.')
    if len(model.mean) != 68:
        raise ValueError(f"The model must be a landmark_model of 68 vertices; it has {len(model.mean)}.")
    if not len(landmarks):
        raise ValueError(f"No face has the {FEWEST} landmarks that a fit needs.")
    few = np.flatnonzero(mask.sum(axis=1) < FEWEST)
    if len(few):
        raise ValueError(f"{len(few)} faces have less than {FEWEST} landmarks, the first is number {few[0]}.")
    low = np.where(mask[..., None], landmarks, np.inf).min(axis=1)
    high = np.where(mask[..., None], landmarks, -np.inf).max(axis=1)
    size = np.sqrt(np.prod(np.maximum(high - low, 1e-6), axis=1))
    center = (low + high) / 2
    points = np.where(mask[..., None], (landmarks - center[:, None]) * [1.0, -1.0] / size[:, None, None], 0.0)
    weight = mask * np.where(visibility > 0.5, 1.0, _OCCLUDED)
    batch_size = min(batch_size, 2 ** math.ceil(math.log2(max(len(points), 1))))
    fits = []
    for first in progress(
        range(0, len(points), batch_size), desc="fitting", unit="batch", unit_scale=False, disable=not show_progress
    ):
        chosen = np.arange(first, first + batch_size).clip(max=len(points) - 1)  # the last batch is padded
        given, counts, exist = (jnp.asarray(array[chosen], jnp.float32) for array in (points, weight, mask))
        fitted = jax.device_get(_fit_batch(given, counts, exist, model, contour == "2d"))
        fits.append([array[: len(points) - first] for array in fitted])
    params, residual, residual_all = (np.concatenate(arrays) for arrays in zip(*fits, strict=True))
    # Back to the picture's frame, in which y is minus the row.
    shift = np.stack([center[:, 0], -center[:, 1]], axis=1)
    matrix = np.concatenate([size[:, None, None] * np.eye(2), shift[..., None]], axis=2)
    return Fit(parameters.move(params.astype(np.float64), matrix), residual, residual_all)


def mirrored(landmarks: np.ndarray, mask: np.ndarray, visibility: np.ndarray) -> tuple[np.ndarray, ...]:
    """Faces mirrored at column 0: x becomes −x, and left and right landmarks swap their indices."""
    order = FACES68.flip
    return landmarks[:, order] * [-1.0, 1.0], mask[:, order], visibility[:, order]


@functools.partial(jax.jit, static_argnames="flat_contour")
def _fit_batch(points, weight, mask, model: MorphableModel, flat_contour: bool):
    """Parameters (B, P) for points (B, 68, 2) in face sizes, y up, and both residuals (B,)."""
    one = functools.partial(_fit_one, model=model, flat_contour=flat_contour)
    return jax.vmap(one)(points, weight, mask)


def _fit_one(points, weight, mask, model: MorphableModel, flat_contour: bool):
    count = model.identity.shape[2]
    basis = jnp.concatenate([model.identity, model.expression], axis=-1)
    prior_mean, prior_std = model.param_mean[12:], model.param_std[12:]
    # The model in units of its own face size; coefficients in standard deviations from their mean.
    mean = model.mean + basis @ prior_mean
    unit = jnp.sqrt(jnp.prod(jnp.ptp(mean[:, :2], axis=0)))
    center = mean.mean(axis=0)
    mean, basis = (mean - center[None]) / unit, basis * prior_std[None, None] / unit

    def project(pose, start, coefficients):
        turned = (mean + basis @ coefficients) @ (_small_rotation(pose[:3]) @ start)[:2].T
        return jnp.exp(pose[3]) * turned + pose[None, 4:6]

    def pose_residuals(pose, start, weight):
        return (weight[:, None] * (project(pose, start, jnp.zeros(basis.shape[-1])) - points)).ravel()

    def residuals(unknowns, start, weight):
        distance = weight[:, None] * (project(unknowns[:6], start, unknowns[6:]) - points)
        return jnp.concatenate([distance.ravel(), NOISE * unknowns[6:]])

    zeros = jnp.zeros(68)
    starts = parameters.rotation_of_angles(
        jnp.zeros(len(_START_YAWS)), jnp.array(_START_YAWS), jnp.zeros(len(_START_YAWS))
    )

    def try_pose(start):
        found = _minimize(pose_residuals, jnp.zeros(6), 12, start, weight)
        return found, jnp.square(pose_residuals(found, start, weight)).sum()

    poses, errors = jax.vmap(try_pose)(starts)
    best = jnp.argmin(errors)
    start, unknowns = starts[best], jnp.concatenate([poses[best], jnp.zeros(basis.shape[-1])])
    counted = weight
    for _ in range(2 if flat_contour else 1):
        if flat_contour:
            yaw = parameters.angles_of_rotation(_small_rotation(unknowns[:3]) @ start)[1]
            counted = weight * _contour_weight(yaw)
        unknowns = _minimize(residuals, unknowns, 12, start, counted)
    distances = jnp.linalg.norm(project(unknowns[:6], start, unknowns[6:]) - points, axis=-1)
    counts = (counted >= _OCCLUDED).astype(points.dtype)
    scale, rotation = jnp.exp(unknowns[3]) / unit, _small_rotation(unknowns[:3]) @ start
    shift = jnp.concatenate([unknowns[4:6], zeros[:1]]) - (scale * rotation @ center) * jnp.array([1.0, 1.0, 0.0])
    transform = jnp.concatenate([scale * rotation, shift[:, None]], axis=1)
    coefficients = prior_mean + prior_std * unknowns[6:]
    params = jnp.concatenate([transform.ravel(), coefficients[:count], coefficients[count:]])
    mean_of = [jnp.sum(distances * which) / jnp.maximum(which.sum(), 1.0) for which in (counts, mask)]
    return params, mean_of[0], mean_of[1]


def _minimize(function: Any, start: Array, steps: int, *arguments: Any) -> Array:
    solver = jaxopt.LevenbergMarquardt(
        function, maxiter=steps, damping_parameter=1e-3, tol=1e-5, solver="cholesky", materialize_jac=True,
        implicit_diff=False,
    )  # fmt: skip
    return solver.run(start, *arguments).params


def _small_rotation(vector: Float[Array, "3"]) -> Float[Array, "3 3"]:
    """Rotation about a vector by its length in radians (Rodrigues' formula); smooth at zero."""
    square = jnp.sum(jnp.square(vector))
    tiny = square < 1e-8
    angle = jnp.sqrt(jnp.where(tiny, 1.0, square))
    first = jnp.where(tiny, 1.0 - square / 6.0, jnp.sin(angle) / angle)
    second = jnp.where(tiny, 0.5 - square / 24.0, (1.0 - jnp.cos(angle)) / jnp.where(tiny, 1.0, square))
    x, y, z = vector
    zero = jnp.zeros_like(x)
    cross = jnp.stack([jnp.stack([zero, -z, y]), jnp.stack([z, zero, -x]), jnp.stack([-y, x, zero])])
    return jnp.eye(3) + first * cross + second * cross @ cross


def _contour_weight(yaw: Float[Array, ""]) -> Float[Array, " 68"]:
    """Weights of the landmarks at a yaw in degrees: below 1 on the hidden half of the contour.

    The hidden half is on the viewer's left (points 0 to 7) for a positive yaw.
    """
    index = jnp.arange(68)
    hidden = jnp.where(yaw > 0, index < 8, (index > 8) & (index < 17))
    return jnp.where(hidden, jnp.clip((25.0 - jnp.abs(yaw)) / 15.0, 0.0, 1.0), 1.0)

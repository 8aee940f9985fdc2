"""Prediction of a system that normalises faces, with the normalised face taken from the picture, not from the crop."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxlm import geometry
from jaxlm.support.pictures import warp
from jaxlm.systems import Halves, Prediction


def regress_from_pictures(
    halves: Halves, variables: Any, images: Any, transforms: np.ndarray, pictures: Sequence[np.ndarray | None]
) -> Prediction:
    """Prediction in crop pixels, from normalised faces that are resampled only once, from the pictures.

    Landmarks are infinite where `halves.locate` gives a map that cannot be inverted.

    Args:
        halves: both halves of the system (`System.halves`), jitted.
        variables: parameters of the system, as `System.predict` takes them.
        images: (B, S, S, 3) crops in [0, 255].
        transforms: (B, 2, 3), picture → crop.
        pictures: B pictures (H, W, 3) uint8 RGB, None for a crop that is only padding.
    """
    located = np.array(halves.locate(variables, images), np.float64)
    lost = ~(np.abs(np.linalg.det(located[..., :2])) > 1e-6)
    located[lost] = np.eye(2, 3)
    faces = np.zeros((len(located), halves.side, halves.side, 3), np.uint8)
    for row, picture in enumerate(pictures):
        if picture is not None:
            faces[row] = warp(picture, geometry.compose_affine(located[row], transforms[row]), halves.side)
    prediction = halves.regress(variables, jax.device_put(faces, getattr(images, "sharding", None)))
    landmarks = geometry.apply_affine(geometry.invert_affine(located), np.asarray(prediction.landmarks))
    landmarks[lost] = np.inf
    return prediction._replace(landmarks=landmarks)

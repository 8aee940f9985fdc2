"""What a model's scores mean: the expected error of a landmark, and the probability that a box holds a face.

A heatmap is wider where its landmark is less certain, and all of them are wide where there is no face. `jaxlm
calibrate` measures both on labelled pictures (`jaxlm.evaluation.calibration`) and writes `calibration.json` beside the
model.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlm.schemes import Scheme

CALIBRATION = "calibration.json"


class Calibration(NamedTuple):
    """Turns scores into expected errors and probabilities.

    Attributes:
        weights: (K,) expected error of each landmark at a `relative_spread` of 1.
        power: of the relative spread to which the expected error is proportional.
        face: slope and offset of the log-odds of a face as a function of its `mean_log_spread`.
    """

    weights: np.ndarray
    power: float
    face: tuple[float, float]

    def expected_error(self, landmarks: np.ndarray, score: np.ndarray, scheme: Scheme) -> np.ndarray:
        """Expected errors (..., K) in per cent of the distance between the outer eye corners.

        Args:
            landmarks: (..., K, 2) in pixels.
            score: (..., K) in (0, 1].
            scheme: of the landmarks, with outer eye corners.
        """
        return self.weights * relative_spread(landmarks, score, scheme) ** self.power

    def probability(self, score: np.ndarray) -> np.ndarray:
        """Probability (...) in [0, 1] that there is a face, where as many boxes hold one as hold none.

        Args:
            score: (..., K) in (0, 1].
        """
        slope, offset = self.face
        return np.asarray(1 / (1 + np.exp(-np.clip(slope * mean_log_spread(score) + offset, -30, 30))))


def spread(score: np.ndarray) -> np.ndarray:
    """Spread of the heatmaps in cells of which `jaxlm.heatmaps.confidence` made the score."""
    return 1 / np.clip(np.asarray(score, np.float64), 1e-6, 1.0) - 1


def mean_log_spread(score: np.ndarray) -> np.ndarray:
    """Mean logarithm (...) of the spreads of a face's heatmaps, from scores (..., K)."""
    return np.asarray(np.log(np.maximum(spread(score), 1e-6)).mean(axis=-1))


def relative_spread(landmarks: np.ndarray, score: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Spread (..., K) in cells, for the distance of the outer eye corners as a share of the face's longer side."""
    assert scheme.outer_eye_corners is not None
    left, right = scheme.outer_eye_corners
    sides = np.ptp(landmarks, axis=-2).max(axis=-1)
    apart = np.linalg.norm(landmarks[..., left, :] - landmarks[..., right, :], axis=-1)
    return spread(score) * (sides / np.maximum(apart, 1e-2 * sides + 1e-9))[..., None]


def read_calibration(folder: Path, num_landmarks: int, step: int | None = None) -> Calibration | None:
    """The calibration beside a model, or None if it has none, or one of another `step` of its training.

    Raises:
        ValueError: if the file is damaged or belongs to a model with another number of landmarks.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return None
    try:
        read = json.loads(path.read_text())
        weights, power, face = np.array(read["weights"], np.float64), float(read["power"]), tuple(read["face"])
        sound = weights.shape == (num_landmarks,) and len(face) == 2 and np.isfinite([*weights, power, *face]).all()
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        sound = False
    if not sound:
        raise ValueError(
            f"{path} is no calibration of {num_landmarks} landmarks; delete it, and write it again by jaxlm calibrate."
        )
    if read.get("step") != step:
        print(f"{path} is of step {read.get('step')} and not used for step {step}; write it again by jaxlm calibrate.")
        return None
    return Calibration(weights, power, face)

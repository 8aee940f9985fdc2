"""Measures what a model's scores mean on labelled pictures: expected errors, and faces against other things."""

import collections
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import scipy.stats

from jaxlm import geometry
from jaxlm.data.augment import picture_of
from jaxlm.data.sources import FaceSource
from jaxlm.predict.predictor import Predictor
from jaxlm.predict.scores import Calibration, mean_log_spread, relative_spread
from jaxlm.schemes import FACES68_OF_FACES98, Scheme, get_scheme
from jaxlm.support.progress import progress

_OTHERS = 2  # boxes without a face that are looked at in each picture
_TRIES = 20
_FEWEST = 10  # faces, and other boxes
_FLOOR = 0.3  # per cent; an error of 0 has no logarithm
BINS = 10


class Observations(NamedTuple):
    """What a model found in labelled pictures.

    Attributes:
        landmarks: (N, K, 2) in the faces' boxes, in pixels of the pictures.
        score: (N, K) of these.
        errors: (N, K) in per cent of the true distance between the outer eye corners; NaN where no label exists.
        others: (M, K) scores in boxes without a face.
    """

    landmarks: np.ndarray
    score: np.ndarray
    errors: np.ndarray
    others: np.ndarray

    def half(self, odd: int) -> "Observations":
        """Every second face and every second box without a face."""
        return Observations(*(values[odd::2] for values in self))


def observe(predictor: Predictor, source: FaceSource, batch: int = 32) -> Observations:
    """What the model finds in the boxes of the faces, and in up to two random boxes of each picture beside its face.

    Args:
        predictor: with the model.
        source: faces with the model's landmarks, or with the 68 that a model of 98 contains.
        batch: number of pictures held at a time.

    Raises:
        ValueError: if the landmarks do not fit, no face has both outer eye corners, or no picture has room beside its
            face.
    """
    scheme = get_scheme(predictor.config.scheme)
    if source.scheme.outer_eye_corners is None or scheme.outer_eye_corners is None:
        raise ValueError("Scores are calibrated on faces: the scheme has no eyes.")
    if source.scheme.name == scheme.name:
        columns = np.arange(scheme.num_landmarks)
    elif (source.scheme.num_landmarks, scheme.num_landmarks) == (68, 98):
        columns = FACES68_OF_FACES98
    else:
        raise ValueError(f"{source.name} has the landmarks {source.scheme.name}, the model {scheme.name}.")
    rng = np.random.default_rng(0)
    found, errors, others = [], [], []
    faces_of = collections.defaultdict(list)
    for index in range(len(source)):
        record = source.records[index]
        if np.any(record["mask"]):
            box = geometry.box_of_points(np.asarray(record["landmarks"], np.float64), np.asarray(record["mask"], bool))
            faces_of[_picture(record)].append(box)
    for start in progress(range(0, len(source), batch), desc=f"scores on {source.name}", unit="batch"):
        pictures, boxes = [], []
        for index in range(start, min(start + batch, len(source))):
            record = source.records[index]
            truth, mask = np.asarray(record["landmarks"], np.float64), np.asarray(record["mask"], bool)
            if not mask[list(source.scheme.outer_eye_corners)].all():
                continue
            picture, face = picture_of(record), geometry.box_of_points(truth, mask)
            height, width = picture.shape[:2]
            inside = np.clip(face, 0, [width, height, width, height])
            pictures.append(picture)
            boxes.append(np.array([inside, *_boxes_beside(face, faces_of[_picture(record)], picture.shape, rng)]))
            left, right = truth[list(source.scheme.outer_eye_corners)]
            errors.append((truth, mask, np.linalg.norm(left - right)))
        for looked in predictor.many(pictures, boxes):
            found.append(looked[0])
            others += [face.score for face in looked[1:]]
    if not found or not others:
        reason = "no face has both outer eye corners" if not found else "its pictures show nothing beside the faces"
        raise ValueError(f"{source.name} does not calibrate scores: {reason}.")
    landmarks, score = np.stack([face.landmarks for face in found]), np.stack([face.score for face in found])
    values = np.full(score.shape, np.nan)
    for number, (truth, mask, apart) in enumerate(errors):
        away = 100 * np.linalg.norm(landmarks[number, columns] - truth, axis=1) / apart
        values[number, columns] = np.where(mask, away, np.nan)
    return Observations(landmarks, score, values, np.stack(others))


def _picture(record: Any) -> str:
    """The picture of a record: its key without the number of the face."""
    key = record.get("key", b"")
    return (key.decode(errors="replace") if isinstance(key, bytes) else str(key)).partition("#")[0]


def _boxes_beside(
    face: np.ndarray, faces: list[np.ndarray], shape: tuple[int, ...], rng: np.random.Generator
) -> list[np.ndarray]:
    """Boxes (4,) in a picture beside its `faces`, 0.4 to 1.2 times as wide as one, of which a little may overlap."""
    boxes = []
    for _ in range(_TRIES):
        side = (face[2] - face[0]) * rng.uniform(0.4, 1.2)
        x, y = rng.uniform(0, max(shape[1] - side, 1)), rng.uniform(0, max(shape[0] - side, 1))
        box = np.array([x, y, x + side, y + side])
        apart = all(
            x > other[2] - 0.1 * side or y > other[3] - 0.25 * side or (box[2:] < other[:2] + 0.1 * side).any()
            for other in faces
        )
        if box[2] <= shape[1] and box[3] <= shape[0] and apart:
            boxes.append(box)
            if len(boxes) == _OTHERS:
                break
    return boxes


def fit(seen: Observations, scheme: Scheme) -> Calibration:
    """Calibration of the scores of what was seen.

    The error of a landmark is proportional to a power of its relative spread, the same for all landmarks; the log-odds
    of a face are linear in the mean logarithm of the spreads. A landmark without labels has the mean of its group.

    Raises:
        ValueError: if all scores are equal, as those of a regression, or there are too few faces or other boxes.
    """
    if np.ptp(seen.score) < 1e-6:
        raise ValueError("The model gives every landmark the same score: there is nothing to calibrate.")
    if min(len(seen.score), len(seen.others)) < _FEWEST:
        raise ValueError(
            f"{len(seen.score)} faces and {len(seen.others)} boxes beside them are too few to calibrate; "
            f"each half of the pictures needs {_FEWEST} of both."
        )
    relative = np.log(np.maximum(relative_spread(seen.landmarks, seen.score, scheme), 1e-6))
    errors = np.log(seen.errors + _FLOOR)
    known = np.isfinite(errors)
    x = np.where(known, relative, np.nan)
    with np.errstate(invalid="ignore"):
        x, y = (values - _columns(values) for values in (x, errors))
        power = float(np.nansum(x * y) / np.nansum(x * x))
        weights = _columns(seen.errors) / _columns(np.where(known, np.exp(power * relative), np.nan))
    weights = _columns(np.stack([weights, weights[scheme.flip]]))
    known_weights = np.isfinite(weights)
    for members in map(list, scheme.groups.values()):
        of_group = [i for i in members if known_weights[i]] or np.flatnonzero(known_weights)
        weights[members] = np.where(known_weights[members], weights[members], weights[of_group].mean())
    return Calibration(weights, power, _logistic(mean_log_spread(seen.score), mean_log_spread(seen.others)))


def _columns(values: np.ndarray) -> np.ndarray:
    """Means (K,) of the values (N, K) that are not NaN; NaN for a column that has none."""
    known = np.isfinite(values)
    return np.where(known, values, 0.0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)


def _logistic(faces: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Slope and offset of the log-odds of a face, of most likelihood where both classes weigh the same."""
    center, scale = faces.mean(), max(faces.std(), 1e-6)

    def loss(parameters: np.ndarray) -> float:
        slope, offset = parameters
        faces_odds, others_odds = ((slope * (x - center) / scale + offset) for x in (faces, others))
        return float(np.logaddexp(0, -faces_odds).mean() + np.logaddexp(0, others_odds).mean() + 1e-4 * slope**2)

    found: Any = scipy.optimize.minimize(loss, np.array([-1.0, 0.0])).x
    return float(found[0] / scale), float(found[1] - found[0] * center / scale)


def check(seen: Observations, scheme: Scheme) -> dict[str, Any]:
    """How well the scores tell, each half of the faces judged by the calibration of the other half.

    Returns:
        rank_landmarks, rank_faces: Spearman's correlation of the expected with the true errors, of landmarks and of
        faces (their means); bins: expected and measured mean errors of tenths of the landmarks, the surest first;
        area: probability that a face has a higher score than another thing; kept, rejected: share of the faces above
        and of the other boxes below a probability of one half; faces, others: their numbers.
    """
    expected, measured, means, probable, false = [], [], [], [], []
    for odd in (0, 1):
        fitted, half = fit(seen.half(1 - odd), scheme), seen.half(odd)
        errors = fitted.expected_error(half.landmarks, half.score, scheme)
        known = np.isfinite(half.errors)
        expected.append(errors[known])
        measured.append(half.errors[known])
        means.append([_rows(np.where(known, errors, np.nan)), _rows(half.errors)])
        probable.append(fitted.probability(half.score))
        false.append(fitted.probability(half.others))
    expected, measured, probable, false = map(np.concatenate, (expected, measured, probable, false))
    means = np.concatenate(means, axis=1)
    tenths = np.array_split(np.argsort(expected, kind="stable"), BINS)
    ranks = scipy.stats.rankdata(np.concatenate([probable, false]))[: len(probable)]
    return {
        "rank_landmarks": _rank_correlation(expected, measured),
        "rank_faces": _rank_correlation(*means),
        "bins": [[float(expected[tenth].mean()), float(measured[tenth].mean())] for tenth in tenths],
        "area": float((ranks.sum() / len(probable) - (len(probable) + 1) / 2) / len(false)),
        "kept": float((probable >= 0.5).mean()),
        "rejected": float((false < 0.5).mean()),
        "faces": len(probable),
        "others": len(false),
    }


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's."""
    return float(np.corrcoef(scipy.stats.rankdata(a), scipy.stats.rankdata(b))[0, 1])


def _rows(values: np.ndarray) -> np.ndarray:
    return _columns(values.T)

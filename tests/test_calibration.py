import json

import ldeq_faces68
import numpy as np
import pytest

from jaxlm import geometry
from jaxlm.data.sources import FaceSource
from jaxlm.evaluation import calibration
from jaxlm.evaluation.calibration import Observations
from jaxlm.face3d.head import landmarks98
from jaxlm.predict import scores
from jaxlm.predict.model import TrainedModel
from jaxlm.predict.predictor import Predictor
from jaxlm.schemes import FACES68_OF_FACES98, get_scheme
from jaxlm.systems import Prediction

SCHEME = get_scheme("faces68")
SHAPE = landmarks98()[FACES68_OF_FACES98][:, :2] * [1, -1]


def observed(rng, faces=600, power=1.5):
    """Errors that follow the law of `Calibration` with known weights, and spreads of other things twice as large."""
    weights = rng.uniform(0.5, 2.0, 68)
    weights = (weights + weights[SCHEME.flip]) / 2
    score = 1 / (1 + rng.uniform(0.5, 2.0, (faces, 1)) * rng.uniform(0.8, 1.25, (faces, 68)))
    landmarks = np.broadcast_to(SHAPE, (faces, 68, 2)) * rng.uniform(0.5, 2.0, (faces, 1, 1))
    expected = weights * scores.relative_spread(landmarks, score, SCHEME) ** power
    others = 1 / (1 + rng.uniform(2.2, 5.0, (400, 1)) * rng.uniform(0.8, 1.25, (400, 68)))
    return Observations(landmarks, score, expected * rng.uniform(0.7, 1.3, expected.shape), others), weights, power


def test_the_law_of_the_errors_is_found():
    seen, weights, power = observed(np.random.default_rng(0))
    fitted = calibration.fit(seen, SCHEME)
    assert fitted.power == pytest.approx(power, rel=0.15)  # the floor flattens small errors a little
    at = scores.relative_spread(seen.landmarks, seen.score, SCHEME)
    ratio = fitted.expected_error(seen.landmarks, seen.score, SCHEME).mean(axis=0) / (weights * at**power).mean(axis=0)
    np.testing.assert_allclose(ratio, 1, atol=0.05)
    checked = calibration.check(seen, SCHEME)
    expected, measured = np.array(checked["bins"]).T
    np.testing.assert_allclose(expected, measured, rtol=0.16)
    assert checked["rank_landmarks"] > 0.9 and checked["rank_faces"] > 0.9
    assert checked["kept"] > 0.98 and checked["rejected"] > 0.98 and checked["area"] > 0.999


def test_scores_without_meaning_are_reported_as_such():
    seen, _, _ = observed(np.random.default_rng(1))
    rng = np.random.default_rng(2)
    shuffled = seen._replace(errors=rng.permutation(seen.errors), others=seen.score[rng.permutation(600)[:400]])
    checked = calibration.check(shuffled, SCHEME)
    assert abs(checked["rank_faces"]) < 0.15 and abs(checked["area"] - 0.5) < 0.08
    with pytest.raises(ValueError, match="nothing to calibrate"):
        calibration.fit(seen._replace(score=np.ones_like(seen.score)), SCHEME)


def test_landmarks_without_labels_have_the_weight_of_their_group():
    seen, _, _ = observed(np.random.default_rng(3))
    brow = list(SCHEME.groups["eyebrows"])
    errors = seen.errors.copy()
    unknown = [*brow[:2], *SCHEME.flip[brow[:2]]]
    known = [index for index in brow if index not in unknown]
    errors[:, unknown] = np.nan
    weights = calibration.fit(seen._replace(errors=errors), SCHEME).weights
    np.testing.assert_allclose(weights[unknown], weights[known].mean())


def test_a_group_without_labels_and_too_few_faces():
    seen, _, _ = observed(np.random.default_rng(4))
    errors = seen.errors.copy()
    errors[:, list(SCHEME.groups["contour"])] = np.nan
    fitted = calibration.fit(seen._replace(errors=errors), SCHEME)
    assert np.isfinite(fitted.weights).all() and np.isfinite(fitted.power)
    with pytest.raises(ValueError, match="3 faces and 400 boxes beside them are too few"):
        calibration.fit(Observations(*(values[:3] for values in seen[:3]), seen.others), SCHEME)


def test_a_calibration_of_another_step_is_not_used(tmp_path, capsys):
    held = {"weights": [1.0] * 68, "power": 1.5, "face": [-3.0, 2.0], "step": 500}
    (tmp_path / scores.CALIBRATION).write_text(json.dumps(held))
    assert scores.read_calibration(tmp_path, 68, 500) is not None
    assert scores.read_calibration(tmp_path, 68, 1000) is None and "step 500" in capsys.readouterr().out


def test_the_expected_error_does_not_depend_on_the_size_of_the_picture():
    known = scores.Calibration(np.ones(68), 1.3, (-5.0, 2.0))
    score = np.random.default_rng(0).uniform(0.2, 0.5, 68)
    errors = [known.expected_error(scale * SHAPE, score, SCHEME) for scale in (1.0, 7.0)]
    np.testing.assert_allclose(errors[0], errors[1])
    assert (known.expected_error(SHAPE, 0.9 * score, SCHEME) > errors[0]).all()
    assert known.probability(0.9 * score) < known.probability(score) < 1


def labelled(tight: bool = False) -> FaceSource:
    """Six pictures with a bright face each and, unless `tight`, a lot of dark room."""
    rng, records = np.random.default_rng(0), []
    for _ in range(6):
        image, points = np.full((300, 400, 3), 10, np.uint8), SHAPE * 0.5 + rng.uniform(80, 200, 2)
        left, top, right, bottom = geometry.box_of_points(points).astype(int)
        image[top:bottom, left:right] = 200
        if tight:
            image, points = image[top:bottom, left:right], points - [left, top]
        records.append({"image": image, "landmarks": points, "mask": np.ones(68)})
    return FaceSource("made", "train", records, SCHEME, ())


def predictor(known=None, detections=None) -> Predictor:
    """Finds the mean shape in each crop; is surer where the crop is bright."""
    config = ldeq_faces68.get_config("smoke")
    half = SHAPE - (SHAPE.min(axis=0) + SHAPE.max(axis=0)) / 2
    points = config.image_size / 2 + half / np.ptp(half, axis=0).max() * config.image_size * 0.6

    def predict(images):
        bright = np.asarray(images).mean(axis=(1, 2, 3)) / 255
        score = np.clip(0.1 + 0.5 * bright, 0.05, 0.9)[:, None] * np.linspace(0.95, 1.0, 68)
        return Prediction(np.broadcast_to(points, (len(images), 68, 2)), score, {})  # pyright: ignore

    model = TrainedModel(config, predict, None, None, "made", calibration=known)
    return Predictor(model, detector=lambda image: detections if detections is not None else np.zeros((0, 4)))


def test_a_labelled_set_is_observed():
    seen = calibration.observe(predictor(), labelled())
    assert seen.landmarks.shape == (6, 68, 2) and seen.errors.shape == (6, 68) and len(seen.others) >= 6
    assert seen.score.min() > seen.others.max()
    truth = labelled().records[3]["landmarks"]
    away = np.hypot(*(seen.landmarks[3, 8] - truth[8])) / np.hypot(*(truth[45] - truth[36]))
    assert seen.errors[3, 8] == pytest.approx(100 * away)
    with pytest.raises(ValueError, match="nothing beside the faces"):
        calibration.observe(predictor(), labelled(tight=True))


def test_detections_that_are_hardly_faces_are_left_out():
    image = np.full((300, 400, 3), 10, np.uint8)
    image[50:170, 40:160] = 250
    detections = np.array([[50.0, 60, 150, 160], [220.0, 60, 320, 160]])
    assert len(predictor(None, detections)(image)) == 2
    known = scores.Calibration(np.ones(68), 1.3, (-100.0, 100.0))
    (face,) = predictor(known, detections)(image)
    assert face.probability is not None and face.probability > 0.5
    assert face.expected_error is not None and face.expected_error.shape == (68,)
    assert {"probability", "expected_error"} <= set(face.to_dict())
    assert len(predictor(known, detections)(image, boxes=detections)) == 2  # boxes that are given stay


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"weights": [1.0], "power": 1.0, "face": [1, 2]}', '{"weights": [], "power": "x", "face": []}'],
)
def test_a_damaged_calibration_is_named(tmp_path, content):
    assert scores.read_calibration(tmp_path, 68) is None
    (tmp_path / scores.CALIBRATION).write_text(content)
    with pytest.raises(ValueError, match=r"calibration\.json is no calibration of 68 landmarks"):
        scores.read_calibration(tmp_path, 68)


def test_a_calibration_is_read_as_it_was_written(tmp_path):
    held = {"weights": [float(i) for i in range(68)], "power": 1.5, "face": [-3.0, 2.0], "measured": {}}
    (tmp_path / scores.CALIBRATION).write_text(json.dumps(held))
    read = scores.read_calibration(tmp_path, 68)
    assert read is not None and read.power == 1.5 and read.face == (-3.0, 2.0) and read.weights[67] == 67

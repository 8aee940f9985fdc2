"""Head pose, openness and aligned crops of landmarks."""

import json

import cv2
import numpy as np
import pytest
import scipy.io

from jaxlm.data.rendered.faces import photographs
from jaxlm.face3d import parameters
from jaxlm.face3d.model_files import load_face_model
from jaxlm.face3d.morphable import landmark_model
from jaxlm.predict import attributes
from jaxlm.predict.predictor import Face
from jaxlm.schemes import FACES68_OF_FACES98


def mean_face(pitch=0.0, yaw=0.0, roll=0.0):
    """68 landmarks (K, 2) of the mean head, turned."""
    points = np.asarray(landmark_model(load_face_model("head")).mean, np.float64)
    turned = points @ parameters.rotation_of_angles(pitch, yaw, roll).T
    return turned[:, :2] * [1.0, -1.0] + [200.0, 150.0]


def face(landmarks):
    return Face(landmarks, np.ones(len(landmarks)), np.array([1.0, 2.0, 3.0, 4.0]), None)


@pytest.mark.parametrize("angles", [(0, 0, 0), (12, 35, -20), (-25, -60, 8), (5, 80, 30)])
def test_the_pose_of_the_mean_head_is_exact(angles):
    pitch, yaw, roll = angles
    found = face(mean_face(pitch, yaw, roll) * 3.7).pose
    np.testing.assert_allclose((found.pitch, found.yaw, found.roll), angles, atol=1e-4)


def test_directions_of_the_angles():
    straight, nose = mean_face(), 30
    assert mean_face(yaw=20)[nose, 0] < straight[nose, 0]  # to the left
    assert mean_face(pitch=20)[nose, 1] < straight[nose, 1]  # up
    left, right = attributes.five_points(mean_face(roll=20))[:2]
    assert right[1] > left[1]  # clockwise


def test_the_pose_of_rendered_faces():
    """Other heads than the mean one, with expressions; their landmarks are exact."""
    faces = list(photographs(seed=3, start=0, count=24, size=64))
    truth = np.array([parameters.pose(np.asarray(one["params"], np.float64))[1] for one in faces])
    found = np.array([attributes.head_pose(one["landmarks"]) for one in faces])
    assert np.median(np.abs(found[:, 0] - truth[:, 1])) < 3 and np.median(np.abs(found[:, 2] - truth[:, 2])) < 3


def test_the_pose_of_real_faces(real_data):
    """Landmarks of AFLW2000-3D against its own poses."""
    errors = []
    for path in sorted((real_data / "aflw2000_dev" / "pictures").glob("*.mat")):
        content = scipy.io.loadmat(path)
        pitch, yaw, roll = np.degrees(content["Pose_Para"][0, :3])
        found = attributes.head_pose(content["pt3d_68"][:2].T - 1)
        if max(abs(pitch), abs(yaw), abs(roll)) < 99:
            errors.append(np.abs(np.subtract(found, (yaw, pitch, roll))))
    yaw, pitch, roll = np.median(errors, axis=0)
    assert len(errors) > 380 and yaw < 4 and roll < 3 and pitch < 7


def test_open_and_closed():
    points = mean_face()
    assert all(value > 0.15 for value in attributes.openness(points)[:2])
    closed = points.copy()
    closed[[41, 40]] = closed[[37, 38]]
    closed[[67, 66, 65]] = closed[[61, 62, 63]]
    assert attributes.openness(closed).left_eye == 0 and attributes.openness(closed).mouth == 0
    assert attributes.openness(closed).right_eye == attributes.openness(points).right_eye
    wide = points.copy()
    wide[[67, 66, 65], 1] += 60
    assert attributes.openness(wide).mouth > attributes.openness(points).mouth + 0.3


def test_an_aligned_crop_has_the_eyes_where_they_belong():
    picture = np.zeros((300, 400, 3), np.uint8)
    points = mean_face(roll=25)
    for x, y in attributes.five_points(points):
        cv2.circle(picture, (round(x), round(y)), 4, (255, 255, 255), -1)
    for size in (112, 224):
        crop = face(points).aligned(picture, size)
        assert crop.shape == (size, size, 3) and crop.dtype == np.uint8
        back = points @ attributes.alignment(points, size)[:, :2].T + attributes.alignment(points, size)[:, 2]
        eyes = attributes.five_points(back)[:2] * 112 / size
        np.testing.assert_allclose(eyes, [(38.3, 51.7), (73.5, 51.5)], atol=4)  # a similarity cannot meet all five
        for x, y in np.rint(attributes.five_points(back)).astype(int):
            assert crop[y, x].min() > 128
    exact = np.array([(10, 20), (50, 20.0)])
    np.testing.assert_allclose(attributes.geometry.similarity_between(exact, exact * 2 + 1), [[2, 0, 1], [0, 2, 1]])


def test_ninety_eight_landmarks_have_what_their_68_have():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (98, 2))
    assert face(points).pose == face(points[FACES68_OF_FACES98]).pose
    with pytest.raises(ValueError, match=r"Only faces with 68 or 98 landmarks have this, not .* \(19, 2\)"):
        attributes.openness(points[:19])


def test_a_face_as_json():
    held = json.loads(json.dumps(face(mean_face(yaw=30)).to_dict()))
    assert held["pose"]["yaw"] == pytest.approx(30, abs=1e-3) and set(held["openness"]) == {
        "left_eye", "right_eye", "mouth",
    }  # fmt: skip
    assert held["box"] == [1, 2, 3, 4] and len(held["landmarks"]) == 68 and "params" not in held
    few = face(np.zeros((19, 2))).to_dict()
    assert set(few) == {"landmarks", "score", "box"}
    assert "pose" not in face(np.full((68, 2), np.nan)).to_dict()


def test_landmarks_of_another_meaning_have_no_pose():
    own = face(mean_face())._replace(scheme="hands68")
    assert "pose" not in own.to_dict() and "scheme" not in own.to_dict()
    assert "pose" in own._replace(scheme="faces68").to_dict()
    for ask in (lambda: own.pose, lambda: own.openness, lambda: own.five_points):
        with pytest.raises(ValueError, match="Only faces68 and faces98 have this, not 68 landmarks of hands68"):
            ask()

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.face3d import fitting, parameters
from jaxlm.face3d.model_files import load_face_model
from jaxlm.face3d.morphable import landmark_model
from jaxlm.schemes import FACES68


@functools.lru_cache
def model():
    """The built-in head with two modes each; a prior of standard deviation 1."""
    return landmark_model(load_face_model("head", identity=2, expression=2))


def faces(yaws, seed=0):
    """Parameters in the picture's frame of random people, and their landmarks in pixels."""
    rng = np.random.default_rng(seed)
    count = len(yaws)
    rotations = parameters.rotation_of_angles(rng.uniform(-15, 15, count), np.array(yaws), rng.uniform(-20, 20, count))
    shift = np.stack([rng.uniform(100, 200, count), -rng.uniform(100, 200, count), np.zeros(count)], axis=1)
    transforms = np.concatenate([rng.uniform(0.5, 2, (count, 1, 1)) * rotations, shift[..., None]], axis=2)
    params = np.concatenate([transforms.reshape(count, 12), rng.uniform(-1, 1, (count, 4))], axis=1)
    points = parameters.picture_pixels(np.asarray(parameters.vertices(jnp.asarray(params, jnp.float32), model())))
    return params, points[..., :2].astype(np.float64)


YAWS = (-80.0, -50.0, -20.0, 0.0, 15.0, 40.0, 65.0, 85.0)
fit = functools.partial(fitting.fit_landmarks, batch_size=8)


def test_what_was_projected_is_found_again():
    truth, points = faces(YAWS)
    mask = np.ones((8, 68), bool)
    found = fit(points, mask, mask.astype(float), model(), contour="3d")
    assert found.residual.max() < 4e-3  # the prior draws the coefficients towards 0
    (scale, angles), (true_scale, true_angles) = parameters.pose(found.params), parameters.pose(truth)
    np.testing.assert_allclose(angles, true_angles, atol=1.5)
    np.testing.assert_allclose(scale, true_scale, rtol=0.02)
    np.testing.assert_allclose(found.params[:, 12:], truth[:, 12:], atol=0.45)


def test_missing_landmarks_do_not_count():
    _, points = faces(YAWS)
    mask = np.ones((8, 68), bool)
    mask[:, 30:45] = False
    spoiled = np.where(mask[..., None], points, 1e4)
    found = fit(spoiled, mask, mask.astype(float), model(), contour="3d")
    assert found.residual.max() < 4e-3


def test_the_hidden_contour_of_2d_annotations_does_not_count():
    """A face turned to the viewer's left hides its contour there, points 0 to 7."""
    truth, points = faces((60.0,) * 8)
    assert (points[:, 30, 0] < points[:, [0, 16], 0].mean(axis=1)).all()  # the nose points to the left
    mask = np.ones((8, 68), bool)
    moved = points.copy()
    moved[:, :8, 0] -= 0.1 * np.ptp(points[..., 0], axis=1)[:, None]  # to the outline
    flat, solid = (fit(moved, mask, mask.astype(float), model(), contour=kind) for kind in ("2d", "3d"))
    assert flat.residual.max() < 4e-3 < 8e-3 < solid.residual.min()
    np.testing.assert_allclose(parameters.pose(flat.params)[1], parameters.pose(truth)[1], atol=1.5)
    assert flat.residual_all.min() > 8e-3


def test_mirrored_faces_turn_the_other_way():
    truth, points = faces(YAWS)
    mask = np.ones((8, 68), bool)
    mask[:, :3] = False
    shapes = fitting.mirrored(points, mask, mask.astype(float))
    np.testing.assert_array_equal(np.flatnonzero(~shapes[1][0]), [14, 15, 16])
    np.testing.assert_allclose(shapes[0][:, FACES68.flip] * [-1, 1], points)
    found = fit(*shapes, model(), contour="3d")
    angles, true_angles = parameters.pose(found.params)[1], parameters.pose(truth)[1]
    np.testing.assert_allclose(angles[:, 1:], -true_angles[:, 1:], atol=2.5)


def test_small_rotations():
    """Rodrigues' formula against SciPy, at and next to zero as well."""
    from scipy.spatial.transform import Rotation

    for vector in ([0.0, 0.0, 0.0], [1e-6, 0.0, 0.0], [0.3, -0.5, 0.1]):
        ours = fitting._small_rotation(jnp.array(vector))
        np.testing.assert_allclose(ours, Rotation.from_rotvec(vector).as_matrix(), atol=1e-6)


def test_a_face_with_few_landmarks_is_named():
    _, points = faces(YAWS)
    mask = np.ones((8, 68), bool)
    mask[5, 4:] = False
    with pytest.raises(ValueError, match="1 faces have less than 6 landmarks, the first is number 5"):
        fit(points, mask, mask.astype(float), model())
    with pytest.raises(ValueError, match="contour must be"):
        fit(points, mask, mask.astype(float), model(), contour="4d")

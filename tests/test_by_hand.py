"""Small rules of several rooms, each checked by hand: who moves, who is left out, which way round."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from test_reinit import PARTS, initial, make_batch, randomised
from test_synthesis import face, landmarks, motion, places, profile

from jaxlm import geometry, heatmaps
from jaxlm.convert import dpr, layers
from jaxlm.convert.torch_weights import TorchWeights
from jaxlm.data.sources import FaceSource
from jaxlm.evaluation import stills
from jaxlm.implicit import jacobian_regularization
from jaxlm.predict import detectors
from jaxlm.predict.full_picture import regress_from_pictures
from jaxlm.schemes import FACES68
from jaxlm.systems import Halves, Prediction, initial_state
from jaxlm.systems.optim import apply_gradients
from jaxlm.systems.reinit.network import ProgressiveNetwork
from jaxlm.workdir import checkpoints, restore


def test_a_boundary_segment_needs_both_of_its_ends():
    landmarks, segments = jnp.array([[2.0, 2.0], [12.0, 2.0], [12.0, 12.0]]), np.array([[0, 1], [1, 2]])
    mask = jnp.array([True, True, False])
    maps = heatmaps.encode_boundary(landmarks, segments, (16, 16), 1.0, mask=mask)[..., 0]
    assert maps[2, 7] == 1.0 and maps[8, 12] == 0.0


@pytest.mark.parametrize("direction", ["sampling", "normalizing"])
def test_the_direction_says_whether_theta_or_its_inverse_samples(direction):
    model = ProgressiveNetwork(68, PARTS, "nano", refine="none", direction=direction, global_side=32)
    images = make_batch(1)["image"].astype(jnp.float32)
    variables = randomised(initial(model.init, jax.random.key(0), images))
    matrix, theta, _ = jax.jit(functools.partial(model.apply, method="locate"))(variables, images)
    inverse = geometry.invert_affine(np.asarray(theta))
    assert np.abs(theta - inverse).max() > 1e-2
    np.testing.assert_allclose(matrix, theta if direction == "sampling" else inverse, atol=1e-5)


def test_the_average_is_warmed_up_and_is_what_predicts():
    optimizer, gradient, moved = optax.sgd(1.0), {"w": jnp.full(2, 3.0)}, {"mean": jnp.ones(2)}
    state = initial_state({"params": {"w": jnp.ones(2)}, "batch_stats": {"mean": jnp.zeros(2)}}, optimizer)
    first, norm = apply_gradients(optimizer, 0.9, state, gradient, moved)
    np.testing.assert_allclose([norm, *first.params["w"]], [3 * 2**0.5, -2, -2], rtol=1e-6)
    late, _ = apply_gradients(optimizer, 0.9, state._replace(step=jnp.asarray(1000)), gradient, moved)
    for after, decay in ((first, 2 / 11), (late, 0.9)):
        np.testing.assert_allclose(after.ema["params"]["w"], decay - 2 * (1 - decay), rtol=1e-5)
        np.testing.assert_allclose(after.ema["batch_stats"]["mean"], 1 - decay, rtol=1e-5)
        assert after.variables is after.ema


def test_rows_and_subsets_by_hand():
    nme, pose = np.array([0.05, 0.09, 0.11, 0.3]), np.array([False, False, True, True])
    landmarks = np.zeros((4, 1, 2), np.float32)
    result = stills.Result(nme, nme[:, None], {}, landmarks, {"all": np.ones(4, bool), "pose": pose})
    row = result.row()
    assert (row["count"], row["fr8"], row["fr10"], row["pck20"]) == (4, 75, 50, 75)
    np.testing.assert_allclose([row["auc8"], row["auc10"]], [0.375 / 4, (0.5 + 0.1) / 4])
    assert result.row("pose")["count"] == 2 and result.row("pose")["nme"] == pytest.approx(20.5)
    source = FaceSource("x", "test", [{"subsets": np.array(flags)} for flags in ([1, 0], [0, 0])], FACES68, ("a", "b"))
    members = {name: member.tolist() for name, member in stills._subsets(source).items()}
    assert members == {"all": [True, True], "a": [True, False]}  # nobody is in b


def test_a_limit_takes_evenly_spaced_faces():
    every = stills._Every("abcdefg", 3)
    assert [every[i] for i in range(len(every))] == ["a", "d", "g"]


def test_the_normalised_face_is_resampled_from_the_picture():
    spot, found = np.array([41.0, 30.0]), np.array([[3.0, 4.0], [20.0, 25.0]])
    rows, columns = np.mgrid[:72, :90]
    picture = (255 * np.exp(-((columns - spot[0]) ** 2 + (rows - spot[1]) ** 2) / 8)[..., None] * np.ones(3)).astype(
        np.uint8
    )
    crop = geometry.box_to_crop(np.array([20.0, 10.0, 60.0, 50.0]), 64)
    located = geometry.similarity(0.5, 40.0, np.array([30.0, 30.0]), np.array([20.0, 12.0]))
    seen = []

    def regress(variables, faces):
        seen.append(np.asarray(faces[0, :, :, 0]))
        return Prediction(jnp.asarray(found)[None], jnp.ones((1, 2)), {})

    halves = Halves(32, lambda variables, images: jnp.asarray(located)[None], regress)
    landmarks = regress_from_pictures(halves, {}, np.zeros((1, 64, 64, 3)), crop[None], [picture]).landmarks[0]
    y, x = np.unravel_index(seen[0].argmax(), (32, 32))
    np.testing.assert_allclose(
        [x, y], geometry.apply_affine(located, geometry.apply_affine(crop, spot[None]))[0], atol=1
    )
    np.testing.assert_allclose(geometry.apply_affine(located, landmarks), found, atol=1e-4)


def test_best_and_last_name_their_checkpoints(tmp_path, monkeypatch):
    state = initial_state({"params": {"w": jnp.zeros(2)}, "batch_stats": {"m": jnp.zeros(2)}}, optax.sgd(1.0))
    saved = checkpoints.Checkpoints(tmp_path)
    for step, nme in ((1, 1.0), (2, 3.0)):
        average = jax.tree.map(lambda leaf, step=step: leaf + step, state.ema)
        saved.save(step, state._replace(ema=average), {}, {"nme": nme})
    saved.close()
    monkeypatch.setattr(restore, "abstract_state", lambda config: state)
    for name, step in (("best", 1), ("last", 2), (None, 2), ("1", 1)):
        variables, found = restore.restore_variables(ConfigDict(), tmp_path, name)
        assert found == step and variables["params"]["w"][0] == step


def test_a_roll_turns_the_head_clockwise_on_the_screen():

    _, params = profile()(places(), face(), motion(roll=[10.0, -10.0]))
    eyes = np.array([points[45] - points[36] for points in (landmarks(face()), *landmarks(params))])
    angles = np.rad2deg(np.arctan2(eyes[:, 1], eyes[:, 0]))  # y down
    np.testing.assert_allclose(angles[1:] - angles[0], [10.0, -10.0], atol=0.01)


@pytest.mark.parametrize(("width", "shrunk"), [(160, 6), (480, 2)])
def test_boxes_in_a_shrunk_picture_come_back_to_its_pixels(monkeypatch, width, shrunk):
    """A face that is found in the first, small copy of a picture, and one that is found in the larger copy alone."""

    def detect(cascade, grey):
        return np.array([[10.0, 20.0, 100.0, 50.0]] if grey.shape[1] == width else np.zeros((0, 4)))

    monkeypatch.setattr(detectors, "_detect", detect)
    (box,) = detectors.HaarDetector()(np.zeros((600, 960, 3), np.uint8))
    # Edges of the landmarks' part of the box; pixel centres are integers.
    np.testing.assert_allclose(box, [shrunk * edge - 0.5 for edge in (22, 31, 98, 71)])


@pytest.mark.usefixtures("float64")
def test_the_regularisation_does_not_move_the_equilibrium():
    w = jnp.asarray(np.random.default_rng(0).normal(size=(5, 5)))
    slope = jax.grad(lambda z: jacobian_regularization(lambda z, w: jnp.tanh(z @ w), z, w, jax.random.key(0)).sum())
    np.testing.assert_array_equal(slope(jnp.ones((2, 5))), 0.0)


def test_kernels_of_pytorch_without_pytorch():
    kernel = np.arange(5 * 4 * 3 * 2.0).reshape(5, 4, 3, 2)  # out, in, h, w
    weights = object.__new__(TorchWeights)
    weights.path, weights._left = Path("file.pth"), {"conv.weight": kernel}
    assert layers.kernel_of(weights, "conv.weight", (3, 2, 4, 5))[2, 1, 3, 0] == kernel[0, 3, 2, 1]


def test_a_released_matrix_in_units():
    """p' = A p + 128 t in pixels of 128 × 128, enlarged by 2, as a map of [−1, 1]²."""
    rng = np.random.default_rng(0)
    kernel, bias, x = rng.normal(size=(4, 6)), rng.normal(size=6), rng.normal(size=4)
    layer = dpr._matrix_in_units(
        {"kernel": kernel, "bias": bias}, linear=1.0, shift=1.0 - 1.0 / 128, constant=1.0 / 256 - 1.0
    )
    matrix = (x @ layer["kernel"] + layer["bias"]).reshape(2, 3) + np.eye(2, 3)
    released = (x @ kernel + bias).reshape(2, 3) * [1.0, 1.0, 128.0]
    np.testing.assert_allclose(geometry.unit_to_pixels(matrix, 128, 256), 2.0 * released, rtol=1e-4, atol=1e-3)

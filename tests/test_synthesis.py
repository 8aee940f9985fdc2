import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxlm.face3d import parameters
from jaxlm.face3d.model_files import load_face_model
from jaxlm.face3d.morphable import landmark_model
from jaxlm.systems.tddfa import synthesis

SIZE = 64


@functools.lru_cache
def model():
    return landmark_model(load_face_model("head", identity=2, expression=2))


def face(yaw=10.0):
    """Parameters (16,) of a face in the middle of the crop."""
    rotation = parameters.rotation_of_angles(np.array(5.0), np.array(yaw), np.array(-8.0))
    middle = np.asarray(model().mean).mean(axis=0)
    shift = np.array([SIZE / 2 + 1, SIZE / 2, 0.0]) - 0.27 * rotation @ middle
    shift[2] = 0.0
    transform = np.concatenate([0.27 * rotation, shift[:, None]], axis=1)
    return jnp.asarray(np.concatenate([transform.ravel(), [0.3, -0.5, 0.2, 0.4]]), jnp.float32)


def motion(**changes):
    """Two frames; without changes nothing moves."""
    still = dict(yaw=jnp.zeros(2), pitch=jnp.zeros(2), roll=jnp.zeros(2), scale=jnp.ones(2), shift=jnp.zeros((2, 2)))
    return synthesis.Motion(**{**still, **{name: jnp.asarray(value, jnp.float32) for name, value in changes.items()}})


@functools.lru_cache
def profile():
    return jax.jit(synthesis.make_profiling(model(), SIZE))


def places():
    """An image whose colours say where a pixel was: column, row, 100."""
    column, row = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    return jnp.asarray(np.stack([column, row, np.full((SIZE, SIZE), 100)], axis=-1), jnp.float32)


def landmarks(params):
    return np.asarray(parameters.crop_pixels(parameters.vertices(params, model()), SIZE))[..., :2]


def settings(**changes):
    numbers = dict(yaw=3.0, pitch=2.0, roll=2.0, scale=0.02, translation=0.02, blur=0.5, noise=3.0)
    config = ConfigDict(dict(image_size=SIZE, synthesis=dict(mode="video", frames=3, **numbers)))
    config.synthesis.update(changes)
    return config


def test_without_motion_nothing_changes():
    images, params = profile()(places(), face(), motion())
    np.testing.assert_allclose(images[0], places(), atol=0.05)
    np.testing.assert_allclose(params[0], face(), atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        dict(yaw=[12.0, -12.0]),
        dict(pitch=[10.0, -10.0]),
        dict(roll=[15.0, -15.0], scale=[1.1, 0.9]),
        dict(yaw=[8.0, 15.0], pitch=[5.0, -4.0], roll=[-6.0, 9.0], shift=[[4.0, -3.0], [-2.0, 5.0]]),
    ],
)
def test_pixels_move_with_the_landmarks(changes):
    """The colour seen at a landmark's new place tells where it was: there the landmark must have been."""
    before = landmarks(face())
    images, params = profile()(places(), face(), motion(**changes))
    for image, moved in zip(np.asarray(images), landmarks(params), strict=True):
        seen = [*range(18, 26), *range(27, 60)]  # what neither the outline nor the nose hides
        inside = [i for i in seen if (moved[i] > 1).all() and (moved[i] < SIZE - 2).all()]
        assert len(inside) > 30 and np.abs(moved - before).max() > 2
        column, row = np.round(moved[inside]).astype(int).T
        error = image[row, column, :2] + (moved[inside] - np.round(moved[inside])) - before[inside]
        assert np.median(np.linalg.norm(error, axis=1)) < 0.8
        assert np.linalg.norm(error, axis=1).max() < 3.0


def test_angles_grow_by_what_was_asked():
    _, params = profile()(places(), face(yaw=0.0), motion(yaw=[10.0, 20.0]))
    yaw = np.asarray(parameters.pose(params)[1])[:, 1]
    np.testing.assert_allclose(yaw, [10.0, 20.0], atol=0.5)


def test_nothing_is_left_empty():
    """The background moves as well, and what comes into view repeats the edge."""
    images, _ = profile()(places(), face(), motion(yaw=[20.0, -20.0], shift=[[12.0, 9.0], [-12.0, -9.0]]))
    # Neighbours come from near each other: a hole would show a far place, or none.
    steps = [np.abs(np.diff(np.asarray(images)[..., :2], axis=axis)).max(axis=-1) for axis in (1, 2)]
    assert max(np.quantile(step, 0.999) for step in steps) < 6.0
    assert np.asarray(images)[..., :2].min(axis=(1, 2)).max() < 14  # and whole
    assert np.asarray(images)[..., :2].std(axis=(1, 2)).min() > 10


def test_the_far_background_rests():
    images, _ = profile()(places(), face(), motion(yaw=[12.0, -12.0]))
    corner = np.asarray(images)[:, 1:4, 1:4, :2] - np.asarray(places())[None, 1:4, 1:4, :2]
    assert np.abs(corner).max() < 2.0


def test_a_batch_of_videos():
    prepare = jax.jit(synthesis.make_synthesis(settings(), model()))
    still = {
        "image": np.asarray(places(), np.uint8)[None].repeat(2, axis=0),
        "params": np.stack([face(0.0), face(50.0)]),
        "mask": np.ones((2, 68), bool),
        "normalizer": np.array([10.0, 20.0], np.float32),
        "index": np.array([7, 8], np.int32),
    }
    still = jax.tree.map(jnp.asarray, still)
    batch = prepare(still, jax.random.key(0))
    assert batch["image"].shape == (6, SIZE, SIZE, 3) and batch["index"].tolist() == [7, 7, 7, 8, 8, 8]
    np.testing.assert_array_equal(batch["image"][3], places())
    np.testing.assert_allclose(batch["landmarks"], landmarks(batch["params"]), atol=1e-4)
    scale = np.asarray(parameters.pose(batch["params"])[0])
    np.testing.assert_allclose(
        batch["normalizer"], np.repeat([10.0, 20.0], 3) * scale / np.repeat(scale[::3], 3), rtol=1e-4
    )
    yaw = np.asarray(parameters.pose(batch["params"])[1])[:, 1]
    assert yaw[3] < yaw[4] < yaw[5] and (np.diff(np.abs(yaw[:3] - yaw[0])) > 0).all()
    again = prepare(still, jax.random.key(0))
    np.testing.assert_array_equal(batch["image"], again["image"])
    assert np.abs(batch["image"] - prepare(still, jax.random.key(1))["image"]).max() > 1


def test_random_frames_do_not_follow_each_other():
    config = settings(mode="random", frames=40).synthesis
    yaw = np.asarray(synthesis.sample_motion(jax.random.key(0), config, SIZE, jnp.zeros(())).yaw)
    assert np.abs(np.diff(yaw)).mean() > 10 and np.abs(yaw).max() <= 39 * 3.0
    config = settings(frames=40).synthesis
    yaw = np.asarray(synthesis.sample_motion(jax.random.key(0), config, SIZE, jnp.zeros(())).yaw)
    assert np.abs(np.diff(yaw)).max() <= 1.2 * 3.0


def test_motion_blur_keeps_the_mean_and_the_place():
    dot = jnp.zeros((2, 21, 21, 3)).at[:, 10, 10].set(100.0)
    blurred = np.asarray(synthesis._blur(dot, jax.random.key(3), 1.0))
    np.testing.assert_allclose(blurred.sum(axis=(1, 2)), 100.0, rtol=1e-5)
    rows, columns = np.mgrid[:21, :21]
    for coordinate in (rows, columns):
        assert (blurred[0, ..., 0] * coordinate).sum() / 100.0 == pytest.approx(10.0, abs=1e-4)
    assert blurred[0, 10, 10, 0] < 100.0
    np.testing.assert_array_equal(synthesis._blur(dot, jax.random.key(3), 0.0), dot)


def test_settings_that_do_not_exist():
    with pytest.raises(ValueError, match=r"synthesis\.mode must be one of none, video, random"):
        synthesis.make_synthesis(settings(mode="film"), model())
    with pytest.raises(ValueError, match=r"synthesis\.frames must be at least 1"):
        synthesis.make_synthesis(settings(frames=0), model())

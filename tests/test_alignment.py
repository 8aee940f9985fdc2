import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxlm import geometry
from jaxlm.schemes import get_scheme
from jaxlm.systems.reinit import alignment

SCHEME = get_scheme("faces68")
pytestmark = pytest.mark.usefixtures("float64")


def points(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, 2)))


def matrices(count, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(
        np.concatenate([np.eye(2) + rng.normal(size=(count, 2, 2)) / 4, rng.normal(size=(count, 2, 1))], -1)
    )


def test_fits_recover_the_map_of_the_points_that_exist():
    source, truth = points(3, 7), matrices(3)
    weight = jnp.ones((3, 7)).at[:, 2].set(0.0)
    target = geometry.apply_affine(truth, source).at[:, 2].set(1e6)
    np.testing.assert_allclose(alignment.fit_affine(source, target, weight), truth, atol=1e-9)
    turn = jnp.asarray(
        np.stack([geometry.similarity(1.7, 30.0 * i, np.zeros(2), np.array([1.0, i])) for i in range(3)])
    )
    target = geometry.apply_affine(turn, source).at[:, 2].set(-1e6)
    np.testing.assert_allclose(alignment.fit_similarity(source, target, weight), turn, atol=1e-9)


def test_an_affine_fit_is_the_least_squares_solution():
    source, target, weight = (
        points(1, 9),
        points(1, 9, seed=3),
        jnp.asarray(np.random.default_rng(4).uniform(0, 1, (1, 9))),
    )
    design = np.concatenate([source[0], np.ones((9, 1))], axis=1) * np.sqrt(weight[0])[:, None]
    expected = np.linalg.lstsq(design, np.asarray(target[0]) * np.sqrt(weight[0])[:, None], rcond=None)[0].T
    np.testing.assert_allclose(alignment.fit_affine(source, target, weight)[0], expected, atol=1e-9)


def test_points_on_a_line_get_a_similarity_and_one_point_a_translation():
    line = jnp.asarray([[[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]])
    turn = jnp.asarray(geometry.similarity(2.0, 40.0, np.zeros(2), np.array([3.0, 4.0])))[None]
    found = alignment.fit_affine(line, geometry.apply_affine(turn, line), jnp.ones((1, 3)))
    np.testing.assert_allclose(found, turn, atol=1e-9)
    one = alignment.fit_affine(line, line + 5.0, jnp.asarray([[1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(one[0], [[1, 0, 5], [0, 1, 5]], atol=1e-9)
    assert np.isfinite(jax.grad(lambda s: alignment.fit_affine(s, line, jnp.zeros((1, 3))).sum())(line)).all()


@pytest.mark.parametrize("kind", ["affine", "similarity"])
def test_the_normalized_state_is_the_same_wherever_the_face_was(kind):
    """Algorithm 1: it undoes any map of its kind that was applied to the face, and leaves the margin around it."""
    reference = points(68)
    face = points(1, 68, seed=5)
    mask = jnp.ones((1, 68), bool).at[0, 4].set(False)
    moved = (
        matrices(1) if kind == "affine" else jnp.asarray(geometry.similarity(0.4, 70.0, np.zeros(2), np.ones(2)))[None]
    )
    states = []
    for shape in (face, geometry.apply_affine(moved, face)):
        matrix, usable = alignment.normalizing_map(shape.at[0, 4].set(1e9), mask, reference, kind=kind, margin=1.25)
        assert usable.all()
        states.append(np.delete(geometry.apply_affine(matrix, shape)[0], 4, axis=0))
    np.testing.assert_allclose(states[0], states[1], atol=1e-8)
    half = np.abs(states[0]).max(axis=0)
    np.testing.assert_allclose(half.max(), 1 / 1.25, atol=1e-9)
    np.testing.assert_allclose(states[0].min(axis=0), -states[0].max(axis=0), atol=1e-9)
    if kind == "affine":
        np.testing.assert_allclose(half, 1 / 1.25, atol=1e-9)


def test_a_face_without_landmarks_is_left_alone_and_said_to_be():
    matrix, usable = alignment.normalizing_map(points(2, 5), jnp.zeros((2, 5), bool).at[1].set(True), points(5))
    np.testing.assert_array_equal(usable, [False, True])
    np.testing.assert_array_equal(matrix[0], np.eye(2, 3))


def test_the_gradient_of_algorithm_1():
    mask = jnp.ones((1, 6), bool)
    for kind in ("affine", "similarity"):
        check_grads(
            lambda s, kind=kind: alignment.normalizing_map(jnp.asarray(s), mask, points(6), kind=kind)[0],
            (points(1, 6, seed=2),),
            1,
        )


def test_the_mean_shape_is_upright_symmetric_and_that_of_the_shapes():
    rng = np.random.default_rng(0)
    half = rng.uniform(0.2, 1.0, (68, 2))
    face = np.array([half[min(i, SCHEME.flip[i])] * [1 if i <= SCHEME.flip[i] else -1, 1] for i in range(68)])
    face[SCHEME.flip == np.arange(68), 0] = 0.0
    shapes = np.stack(
        [
            geometry.apply_affine(
                geometry.similarity(rng.uniform(20, 90), rng.uniform(-30, 30), np.zeros(2), rng.uniform(0, 200, 2)),
                face,
            )
            for _ in range(12)
        ]
    )
    mask = rng.random((12, 68)) < 0.8
    mean = alignment.mean_shape(shapes, mask, SCHEME.flip)
    low, high = face.min(axis=0), face.max(axis=0)
    np.testing.assert_allclose(mean, 2 * (face - low) / (high - low) - 1, atol=1e-4)
    with pytest.raises(ValueError, match="landmarks 3, 7"):
        alignment.mean_shape(shapes, mask & ~np.isin(np.arange(68), [3, 7]), SCHEME.flip)

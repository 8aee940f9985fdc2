import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import losses, metrics


def test_losses_by_hand():
    pred, target = jnp.array([0.0, 2.0, -0.5]), jnp.array([0.0, 0.0, 0.0])
    np.testing.assert_allclose(losses.mse(pred, target), [0, 4, 0.25])
    np.testing.assert_allclose(losses.l1(pred, target), [0, 2, 0.5])
    np.testing.assert_allclose(losses.smooth_l1(pred, target), [0, 1.5, 0.125])


@pytest.mark.parametrize("name", losses.LANDMARK_LOSSES)
def test_gradient_is_zero_at_zero_error(name):
    slope = jax.grad(lambda p: losses.LANDMARK_LOSSES[name](p, jnp.zeros(3)).sum())(jnp.zeros(3))
    np.testing.assert_array_equal(slope, 0.0)


def test_masked_mean_ignores_what_is_masked():
    values, mask = jnp.array([1.0, jnp.nan, 3.0]), jnp.array([True, False, True])
    assert losses.masked_mean(values, mask) == 2.0
    slope = jax.grad(lambda v: losses.masked_mean(v, mask))(values)
    np.testing.assert_array_equal(slope, [0.5, 0.0, 0.5])
    assert losses.masked_mean(values, jnp.zeros(3, bool)) == 0.0


def test_nme_by_hand():
    target = jnp.zeros((2, 3, 2))
    pred = jnp.array([[[3.0, 4.0], [0.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [9.0, 9.0], [0.0, 3.0]]])
    mask = jnp.array([[True, True, True], [True, False, True]])
    np.testing.assert_allclose(metrics.nme(pred, target, jnp.array([10.0, 20.0]), mask), [0.2, 0.1])


def test_a_face_without_normaliser_or_landmarks_is_nan():
    pred = target = jnp.zeros((2, 3, 2))
    mask = jnp.array([[True] * 3, [False] * 3])
    assert np.isnan(metrics.nme(pred, target, jnp.array([0.0, 1.0]), mask)).all()


def test_a_prediction_that_is_not_finite_fails():
    pred = jnp.zeros((1, 2, 2)).at[0, 0, 0].set(jnp.nan)
    errors = metrics.nme(pred, jnp.zeros((1, 2, 2)), jnp.ones(1))
    assert np.isinf(errors).all() and metrics.failure_rate(np.asarray(errors), 0.1) == 1.0


def test_failure_rate_and_exact_auc():
    errors = np.array([0.02, 0.05, 0.10, 0.30, np.nan])
    assert metrics.failure_rate(errors, 0.1) == 0.25
    # The staircase curve integrated piece by piece.
    area = (0.05 - 0.02) * 0.25 + (0.10 - 0.05) * 0.5
    np.testing.assert_allclose(metrics.auc(errors, 0.1), area / 0.1)
    assert metrics.auc(np.zeros(3), 0.1) == 1.0 and metrics.auc(np.ones(3), 0.1) == 0.0


def test_auc_agrees_with_a_fine_numerical_integral():
    errors = np.abs(np.random.default_rng(0).normal(size=200)) * 0.06
    grid = (np.arange(200000) + 0.5) / 200000 * 0.1
    curve = np.searchsorted(np.sort(errors), grid, side="right") / len(errors)
    np.testing.assert_allclose(metrics.auc(errors, 0.1), curve.mean(), atol=1e-5)

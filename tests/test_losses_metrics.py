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


def test_adaptive_wing_costs_what_the_paper_s_numbers_say():
    zero, one = jnp.zeros(1), jnp.ones(1)
    np.testing.assert_allclose(losses.adaptive_wing(one, zero), 8.4959, atol=5e-5)
    np.testing.assert_allclose(losses.adaptive_wing(zero, one), 10.2594, atol=5e-5)
    np.testing.assert_allclose(losses.adaptive_wing(jnp.full(1, 0.3), zero), 14 * np.log1p(0.3**2.1), rtol=1e-5)
    np.testing.assert_allclose(losses.adaptive_wing(jnp.full(1, 0.8), one), 14 * np.log1p(0.2**1.1), rtol=1e-5)


@pytest.mark.parametrize("target", [0.0, 0.35, 0.9, 1.0])
def test_adaptive_wing_is_smooth_at_theta_and_around_zero(float64, target):
    def loss(error):
        return losses.adaptive_wing(jnp.asarray(target + error)[None], jnp.full(1, target))[0]

    for error in (-0.9, -0.5, -0.2, -1e-3, 1e-3, 0.2, 0.5 - 1e-7, 0.5, 0.5 + 1e-7, 0.9):
        slope, step = jax.grad(loss)(error), 1e-6
        np.testing.assert_allclose(slope, (loss(error + step) - loss(error - step)) / (2 * step), rtol=1e-4, atol=1e-6)
    assert jax.grad(loss)(0.0) == 0.0 and abs(jax.grad(loss)(1e-12)) < 1.5


@pytest.mark.parametrize("loss", [losses.adaptive_wing, losses.wing])
def test_wings_have_finite_gradients_everywhere_and_zero_at_zero(loss):
    target = jnp.linspace(0, 1, 11)
    errors = jnp.concatenate([jnp.zeros(1), 10.0 ** jnp.arange(-38, 3)])
    pred = target[:, None] + jnp.concatenate([errors, -errors])[None]
    pairs = jnp.broadcast_to(target[:, None], pred.shape)
    slopes = jax.grad(lambda p, t: loss(p, t).sum(), argnums=(0, 1))(pred, pairs)
    assert np.isfinite(slopes[0]).all() and np.isfinite(slopes[1]).all()
    np.testing.assert_array_equal(np.asarray(slopes[0])[np.asarray(pred == pairs)], 0.0)


def test_wing_by_hand():
    pred, target = jnp.array([0.0, 1.0, -4.0, 12.0]), jnp.zeros(4)
    expected = [0, 10 * np.log(1.5), 10 * np.log(3), 12 - (10 - 10 * np.log(6))]
    np.testing.assert_allclose(losses.wing(pred, target), expected, rtol=1e-6)


def test_the_weight_map_is_a_dilated_mask():
    from scipy.ndimage import grey_dilation

    target = np.random.default_rng(0).uniform(0, 0.21, (2, 9, 7, 3)).astype(np.float32)
    expected = 1 + 10 * (grey_dilation(target, (1, 3, 3, 1)) >= 0.2)
    assert 1 < expected.mean() < 11
    np.testing.assert_array_equal(losses.loss_map_weight(jnp.asarray(target)), expected)
    np.testing.assert_array_equal(losses.loss_map_weight(jnp.asarray(target), weight=0.0), 1.0)


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


def flickering() -> tuple[np.ndarray, np.ndarray]:
    """Three frames of two landmarks on a box of 4 × 9: the second residual jumps by (3, 4), then stays."""
    target = np.array([[[0.0, 0.0], [4.0, 9.0]]] * 3) + np.arange(3)[:, None, None]
    pred = target.copy()
    pred[1:, 1] += [3.0, 4.0]
    return pred.astype(np.float32), target.astype(np.float32)


def test_flicker_and_both_nmfs_by_hand():
    pred, target = flickering()
    # One of two landmarks moves by 5: √(25 / 2) over √(4·9) = 6.
    np.testing.assert_allclose(metrics.flicker(pred, target), [np.nan, np.sqrt(12.5) / 6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(metrics.nmf(pred, target, variant="paper"), np.sqrt(12.5 / 36 / 3), rtol=1e-6)
    np.testing.assert_allclose(metrics.nmf(pred, target), 100 * 256 * np.sqrt(12.5 / 36 / 2), rtol=1e-6)
    with pytest.raises(ValueError, match="released"):
        metrics.nmf(pred, target, variant="mean")


def test_flicker_does_not_see_a_constant_error():
    pred, target = flickering()
    assert metrics.nmf(target + np.float32(2.0), target) == 0.0
    assert metrics.nmf(pred, target) > 0


def test_flicker_counts_pairs_of_frames_that_have_the_landmark():
    pred, target = flickering()
    mask = np.ones((3, 2), bool)
    mask[0, 1] = False  # the landmark that jumps has no frame before
    np.testing.assert_allclose(metrics.nmf(pred, target, mask), 0.0)
    assert np.isnan(metrics.nmf(pred[:1], target[:1])) and np.isnan(metrics.nmf(pred[:0], target[:0]))
    mask[1] = False
    assert np.isnan(metrics.nmf(pred, target, mask))


def test_stability_by_hand():
    pred, target = flickering()
    np.testing.assert_allclose(metrics.stability(pred, target), (5 / 2 / 6 + 0) / 2, rtol=1e-6)
    np.testing.assert_allclose(metrics.stability(pred + np.float32(3), target), (5 / 2 / 6) / 2, rtol=1e-6)


def test_jitter_ignores_motion_of_the_whole_face_and_steady_motion_of_its_parts():
    time = np.arange(8.0)[:, None, None]
    shape = np.array([[[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]])
    steady = (
        shape
        + np.array([[[0.0, 0.0], [0.1, 0.0], [0.0, 0.0]]]) * time
        + np.random.default_rng(0).normal(size=(8, 1, 2))
    )
    assert metrics.jitter(steady) < 1e-12
    nervous = shape + np.zeros((8, 1, 1))
    nervous[3, 1, 0] += 1.0
    # Second differences 1, −2, 1 of the one landmark, minus a third of them of the mean, over a size near 10.
    expected = np.sqrt((1 + 4 + 1) * (4 / 9 + 1 / 9 + 1 / 9) / 3 / 6) / 10
    np.testing.assert_allclose(metrics.jitter(nervous), expected, rtol=0.1)
    assert np.isnan(metrics.jitter(nervous[:2]))


@pytest.mark.parametrize(("weighted", "maps"), [(False, 1), (True, 3)])
def test_adaptive_wing_is_fused(weighted, maps):
    """Temporaries of value and gradient: the slope alone and, with the weight map, its dilation."""

    def loss(pred, target):
        values = losses.adaptive_wing(pred, target)
        return (values * losses.loss_map_weight(target) if weighted else values).mean()

    shape = jax.ShapeDtypeStruct((2, 64, 64, 68), jnp.float32)
    memory = jax.jit(jax.value_and_grad(loss)).lower(shape, shape).compile().memory_analysis()
    assert memory.temp_size_in_bytes <= (maps + 0.01) * 4 * 2 * 64 * 64 * 68


def test_paired_difference_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        faces, trainings = rng.normal(5, 2, (1, 60)), rng.normal(0, 0.3, (2, 8, 1))
        a, b = (faces + of + rng.normal(0, 0.5, (8, 60)) for of in trainings)
        mean, low, high = metrics.paired_difference(a + 0.4, b, draws=300, seed=trial)
        assert low < mean < high and np.isclose(mean, (a + 0.4 - b).mean())
        covered += low < 0.4 < high
    assert 86 <= covered <= 99
    # Pairs remove what faces have in common: the interval is far narrower than the spread of the faces.
    mean, low, high = metrics.paired_difference(faces + 0.1, faces)
    assert mean == pytest.approx(0.1) and high - low < 1e-9


def test_relative_change_covers_the_truth_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for trial in range(200):
        hardness = rng.gamma(2.0, 3.0, 60)  # clips differ far more than methods do
        reference = hardness * rng.lognormal(0, 0.1, 60)
        values = 0.9 * hardness * rng.lognormal(0, 0.1, 60)
        mean, low, high = metrics.relative_change(values, reference, draws=300, seed=trial)
        np.testing.assert_allclose(mean, values.mean() / reference.mean() - 1)
        covered += low <= -0.1 <= high
        assert high - low < 0.15  # of unpaired samples: about 0.5
    assert 180 <= covered <= 198
    mean, *_ = metrics.relative_change(np.array([1.0, np.nan, 3.0]), np.array([2.0, 7.0, 2.0]))
    assert mean == 0
    with pytest.raises(ValueError, match="No sample has both"):
        metrics.relative_change(np.array([np.nan, 1.0]), np.array([1.0, np.nan]))


def test_paired_difference_leaves_out_what_is_not_measured():
    with pytest.raises(ValueError, match="No sample has a finite value"):
        metrics.paired_difference(np.full((2, 3), np.nan), np.ones((2, 3)))
    mean, *_ = metrics.paired_difference(np.array([[1.0, np.nan, 3.0]]), np.array([[0.0, 0.0, 0.0]]))
    assert mean == 2.0


@pytest.mark.usefixtures("float64")
def test_adaptive_weights_are_equation_9():
    rng = np.random.default_rng(0)
    error = rng.normal(size=(6, 5, 2))
    expected = np.exp(-error.std(axis=0) * np.abs(error - error.mean(axis=0)))
    np.testing.assert_allclose(losses.adaptive_landmark_weight(jnp.asarray(error)), expected, rtol=1e-12)
    mask = rng.random((6, 5, 2)) < 0.6
    mask[:, 0] = False
    found = losses.adaptive_landmark_weight(jnp.asarray(np.where(mask, error, 1e6)), jnp.asarray(mask))
    for k in range(5):
        for axis in range(2):
            z = error[mask[:, k, axis], k, axis]
            if len(z):
                expected = np.exp(-z.std() * np.abs(z - z.mean()))
                np.testing.assert_allclose(found[mask[:, k, axis], k, axis], expected, rtol=1e-9)
    assert (np.asarray(found)[~mask] == 0).all()


@pytest.mark.usefixtures("float64")
def test_the_adaptive_loss_is_the_weighted_l1_without_gradient_through_the_weights():
    rng = np.random.default_rng(0)
    pred, target = (jnp.asarray(rng.normal(size=(6, 5, 2))) for _ in range(2))
    weight = losses.adaptive_landmark_weight(3.0 * (pred - target))
    np.testing.assert_allclose(losses.adaptive_l1(pred, target, unit=3.0), weight * jnp.abs(pred - target), rtol=1e-12)
    gradient = jax.grad(lambda pred: losses.adaptive_l1(pred, target, unit=3.0).sum())(pred)
    np.testing.assert_allclose(gradient, weight * jnp.sign(pred - target), rtol=1e-12)

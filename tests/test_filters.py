import numpy as np
import pytest

from jaxlm.video import filters


def walk(frames: int = 40, landmarks: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(frames, landmarks, 2)).cumsum(axis=0)


def test_exponential_average_by_hand():
    values = np.array([0.0, 1.0, 1.0])[:, None, None]
    np.testing.assert_allclose(filters.exponential_moving_average(values, 0.5).ravel(), [0, 0.5, 0.75])
    np.testing.assert_array_equal(filters.exponential_moving_average(walk(), 1.0), walk())


def test_scores_weigh_the_average():
    values = walk(6, 2)
    score = np.random.default_rng(1).uniform(0.1, 1, (6, 2))
    alpha, frame = 0.4, 5
    # From the definition: weights α(1 − α)ⁱ score, the first frame's without the α.
    weights = alpha * (1 - alpha) ** np.arange(frame, -1, -1)[:, None] * score
    weights[0] /= alpha
    expected = (weights[..., None] * values).sum(axis=0) / weights.sum(axis=0)[:, None]
    np.testing.assert_allclose(filters.exponential_moving_average(values, alpha, score)[frame], expected)
    np.testing.assert_allclose(
        filters.exponential_moving_average(values, alpha, np.ones((6, 2))),
        filters.exponential_moving_average(values, alpha),
    )


@pytest.mark.parametrize("causal", [False, True])
def test_savitzky_golay_keeps_polynomials_of_its_degree(causal):
    time = np.arange(20.0)
    parabola = np.stack([0.3 * time**2 - time, 2 * time + 1], axis=-1)[:, None]
    np.testing.assert_allclose(filters.savitzky_golay(parabola, 7, 2, causal=causal), parabola, atol=1e-9)


@pytest.mark.parametrize("spec", ["ema:0.5", "ema_score:0.5", "savgol_causal:5,2", "one_euro:1,0.1"])
def test_causal_filters_do_not_see_the_future(spec):
    values, score = walk(), np.random.default_rng(2).uniform(0.1, 1, (40, 3))
    changed = values.copy()
    changed[25:] += 100
    before, after = (filters.parse(spec)(v, score, 25.0) for v in (values, changed))
    np.testing.assert_array_equal(before[:25], after[:25])
    assert np.abs(before[25] - after[25]).max() > 1


def test_one_euro_smooths_at_rest_and_follows_when_fast():
    rng = np.random.default_rng(3)
    still = rng.normal(size=(200, 1, 2))
    assert filters.one_euro(still, min_cutoff=0.5, beta=0.0)[50:].std() < 0.5 * still[50:].std()
    ramp = 50.0 * np.arange(100)[:, None, None] * np.ones((1, 1, 2))
    slow, fast = (np.abs(filters.one_euro(ramp, min_cutoff=0.5, beta=b) - ramp)[-1].max() for b in (0.0, 0.5))
    assert fast < 0.05 * slow


@pytest.mark.parametrize("spec", ["ema:0.5", "savgol:5,2", "savgol_causal:5,2", "one_euro:1,0.1"])
def test_a_lost_face_stays_lost_and_starts_the_filter_anew(spec):
    values, score = walk(), np.ones((40, 3))
    values[10:13] = np.nan
    apply = filters.parse(spec)
    result = apply(values, score, 25.0)
    assert np.isnan(result[10:13]).all() and np.isfinite(np.delete(result, slice(10, 13), axis=0)).all()
    np.testing.assert_allclose(result[13:], apply(values[13:], score[13:], 25.0))


@pytest.mark.parametrize("frames", [0, 1, 2])
@pytest.mark.parametrize("spec", ["ema:0.5", "savgol:7,2", "savgol_causal:7,2", "one_euro:1,0.1"])
def test_short_videos(spec, frames):
    result = filters.parse(spec)(walk(frames), np.ones((frames, 3)), 25.0)
    assert result.shape == (frames, 3, 2) and np.isfinite(result).all()


@pytest.mark.parametrize("spec", ["ema:0", "ema:1.5", "savgol:6,2", "savgol:5", "one_euro:-1,0", "median:3", "ema:x"])
def test_bad_filters_are_refused(spec):
    with pytest.raises(ValueError):
        filters.parse(spec)

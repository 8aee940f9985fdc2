import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm import heatmaps


@settings(max_examples=20, deadline=None)
@given(st.floats(10, 53), st.floats(10, 37), st.floats(1.0, 2.5))
def test_encode_then_soft_argmax_returns_the_landmark(x, y, sigma):
    landmarks = jnp.array([[[x, y], [30.25, 20.75]]])
    maps = heatmaps.encode_gaussian(landmarks, (48, 64), sigma)
    assert maps.shape == (1, 48, 64, 2)
    np.testing.assert_allclose(heatmaps.soft_argmax(maps), landmarks, atol=2e-3)


def test_gaussian_peak_width_and_axes():
    maps = heatmaps.encode_gaussian(jnp.array([[5.0, 3.0]]), (8, 16), 1.5)
    assert maps[3, 5, 0] == 1.0
    np.testing.assert_allclose(maps[3, 8, 0], np.exp(-0.5 * 4), rtol=1e-6)
    np.testing.assert_allclose(maps[4, 5, 0], np.exp(-0.5 / 2.25), rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_soft_argmax_is_the_expectation_over_cells():
    rng = np.random.default_rng(0)
    maps = rng.uniform(size=(2, 5, 7, 3))
    rows, columns = np.mgrid[:5, :7]
    expected = np.stack(
        [
            (maps * columns[None, :, :, None]).sum((1, 2)) / maps.sum((1, 2)),
            (maps * rows[None, :, :, None]).sum((1, 2)) / maps.sum((1, 2)),
        ],
        axis=-1,
    )
    np.testing.assert_allclose(heatmaps.soft_argmax(jnp.asarray(maps)), expected, rtol=1e-12)


def test_spread_is_the_gaussian_sigma():
    maps = heatmaps.encode_gaussian(jnp.array([[[32.0, 30.0]]]), (64, 64), 3.0)
    np.testing.assert_allclose(heatmaps.spread(maps), 3.0 * np.sqrt(2), rtol=1e-3)


def test_bfloat16_maps_are_summed_in_float32():
    maps = heatmaps.encode_gaussian(jnp.array([[[32.3, 30.6]]]), (64, 64), 3.0)
    low = heatmaps.soft_argmax(maps.astype(jnp.bfloat16))
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, heatmaps.soft_argmax(maps), atol=0.02)
    assert np.isfinite(jax.grad(lambda m: heatmaps.soft_argmax(m).sum())(maps)).all()

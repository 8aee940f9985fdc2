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


def test_a_truncated_gaussian_is_seven_by_seven_around_its_own_cell():
    maps = heatmaps.encode_gaussian(jnp.array([[10.4, 20.6]]), (64, 64), 1.75, radius=3)[..., 0]
    rows, columns = np.nonzero(maps)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (18, 24, 7, 13)
    np.testing.assert_allclose(maps[24, 13], np.exp(-(2.6**2 + 3.4**2) / (2 * 1.75**2)), rtol=1e-5)


def test_a_landmark_off_the_image_has_an_empty_map():
    landmarks = jnp.array([[-0.51, 5.0], [-0.49, 5.0], [15.49, 7.49], [15.5, 5.0], [5.0, 7.51]])
    maps = heatmaps.encode_gaussian(landmarks, (8, 16), 2.0)
    inside = heatmaps.is_inside(landmarks, (8, 16))
    np.testing.assert_array_equal(inside, [False, True, True, False, False])
    np.testing.assert_array_equal(maps.max(axis=(0, 1)) > 0, inside)


@settings(max_examples=20, deadline=None)
@given(st.floats(2.0, 13.0), st.floats(2.0, 9.0))
def test_quarter_pixel_is_within_a_quarter_cell(x, y):
    maps = heatmaps.encode_gaussian(jnp.array([[[x, y]]]), (12, 16), 1.5)
    np.testing.assert_allclose(heatmaps.quarter_pixel(maps)[0, 0], [x, y], atol=0.2501)


def test_quarter_pixel_moves_towards_the_higher_neighbour_and_stays_at_the_border():
    maps = np.zeros((5, 6, 3), np.float32)
    maps[2, 3, 0], maps[2, 2, 0], maps[2, 4, 0], maps[3, 3, 0] = 1.0, 0.5, 0.4, 0.2
    maps[0, 5, 1], maps[1, 5, 1] = 1.0, 0.5
    maps[..., 2] = -1.0
    maps[4, 0, 2] = -0.5
    np.testing.assert_allclose(heatmaps.quarter_pixel(jnp.asarray(maps)), [[2.75, 2.25], [5, 0], [0, 4]])


def test_around_the_peak_a_far_bump_does_not_count():
    maps = heatmaps.encode_gaussian(jnp.array([[5.3, 4.6]]), (32, 32), 1.0)
    far = maps + 0.6 * heatmaps.encode_gaussian(jnp.array([[25.0, 20.0]]), (32, 32), 1.0) - 0.01
    local = heatmaps.soft_argmax(heatmaps.around_peak(far, 3))
    np.testing.assert_allclose(local, [[5.3, 4.6]], atol=0.03)
    assert abs(heatmaps.soft_argmax(jnp.maximum(far, 0)) - local).max() > 3


def test_a_map_without_a_positive_cell_still_has_a_landmark():
    maps = jnp.full((6, 6, 1), -1.0).at[2, 4, 0].set(-0.5)
    kept = heatmaps.around_peak(maps, 2)
    np.testing.assert_allclose(heatmaps.soft_argmax(kept), [[4.0, 2.0]])
    np.testing.assert_allclose(heatmaps.confidence(kept), 1.0)


@pytest.mark.usefixtures("float64")
def test_boundary_against_a_dense_distance_transform():
    rng = np.random.default_rng(0)
    landmarks = rng.uniform(-5, 40, (6, 2))
    landmarks[3] = landmarks[2]  # a closed eye
    segments = np.array([[0, 1], [1, 2], [2, 3], [4, 5]])
    maps = heatmaps.encode_boundary(jnp.asarray(landmarks), segments, (24, 32), 1.5)
    steps = np.linspace(0, 1, 2001)[:, None]
    samples = np.concatenate([landmarks[a] * (1 - steps) + landmarks[b] * steps for a, b in segments])
    rows, columns = np.mgrid[:24, :32]
    cells = np.stack([columns, rows], axis=-1)[:, :, None]
    distance = np.linalg.norm(cells - samples, axis=-1).min(axis=-1)
    expected = np.where(distance < 4.5, np.exp(-0.5 * (distance / 1.5) ** 2), 0.0)
    unsure = abs(distance - 4.5) < 1e-3
    np.testing.assert_allclose(np.where(unsure, 0, maps[..., 0]), np.where(unsure, 0, expected), atol=1e-3)
    assert (maps == 0).any() and (maps > 0.9).any()

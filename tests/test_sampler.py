import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.ndimage import map_coordinates

from jaxlm import geometry
from jaxlm.systems.reinit import sampler

RNG = np.random.default_rng(0)


@pytest.mark.usefixtures("float64")
def test_it_is_bilinear_inside_and_black_outside():
    images = RNG.uniform(size=(2, 5, 7, 3))
    points = RNG.uniform(-3, 9, size=(2, 200, 2))
    points[0, :3] = [[0, 0], [6, 4], [1e9, -1e9]]
    found = sampler.sample_bilinear(jnp.asarray(images), jnp.asarray(points))
    for image, where, values in zip(images, points, found, strict=True):
        for channel in range(3):
            expected = map_coordinates(image[..., channel], where.T[::-1], order=1, mode="grid-constant")
            np.testing.assert_allclose(values[:, channel], expected, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_gradients_to_image_and_theta_are_the_finite_differences():
    image = jnp.asarray(RNG.normal(size=(1, 6, 6, 2)))
    theta = jnp.asarray([[[0.71, 0.13, 0.05], [-0.22, 0.93, 0.31]]])
    check_grads(
        lambda image, theta: sampler.warp(jnp.asarray(image), jnp.asarray(theta), 5),
        (image, theta),
        1,
        modes=["rev"],
        eps=1e-6,
    )


def test_points_move_with_the_picture():
    """A blob's centre, found in the warped image and mapped by T_θ, is where the blob was."""
    center = np.array([40.3, 25.8])
    y, x = np.mgrid[:64, :64]
    image = np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / 18)[None, :, :, None].astype(np.float32)
    theta = np.array([[[0.8, 0.2, 0.1], [-0.3, 0.7, -0.1]]], np.float32)
    warped = np.asarray(sampler.warp(jnp.asarray(image), jnp.asarray(theta), 96))[0, :, :, 0]
    y, x = np.mgrid[:96, :96]
    found = np.array([(warped * x).sum(), (warped * y).sum()]) / warped.sum()
    back = geometry.from_unit(geometry.apply_affine(theta[0], geometry.to_unit(found[None], 96)), 64)
    np.testing.assert_allclose(back[0], center, atol=0.02)
    pixels = geometry.apply_affine(geometry.unit_to_pixels(theta[0], 96, 64), found[None])
    np.testing.assert_allclose(pixels, back, atol=1e-4)


def test_the_identity_changes_nothing_and_halves_are_the_pool_of_two():
    image = jnp.asarray(RNG.uniform(size=(1, 8, 8, 1)), jnp.float32)
    identity = jnp.eye(2, 3)[None]
    np.testing.assert_allclose(sampler.warp(image, identity, 8), image, atol=1e-6)
    pooled = image.reshape(1, 4, 2, 4, 2, 1).mean(axis=(2, 4))
    np.testing.assert_allclose(sampler.warp(image, identity, 4), pooled, atol=1e-6)
    assert jax.jit(sampler.warp, static_argnums=2)(image, identity, 3).shape == (1, 3, 3, 1)

"""The building blocks of the networks against XLA's and Flax's own, in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.networks import convolution
from jaxlm.networks.blocks import max_pool
from jaxlm.networks.convolution import conv_general_dilated, depthwise_convolution, same_convolution
from jaxlm.networks.normalization import leaky_group_norm


def check_derivatives(ours, theirs, *args):
    """Tangents, and Hessian-vector products forward over reverse and reverse over reverse, are those of `theirs`."""
    keys = jax.random.split(jax.random.key(5), len(args))
    vector = tuple(jax.random.normal(key, arg.shape, arg.dtype) for key, arg in zip(keys, args, strict=True))
    found, expected = (jax.jvp(function, args, vector)[1] for function in (ours, theirs))
    np.testing.assert_allclose(found, expected, atol=1e-10)
    every = tuple(range(len(args)))

    def products(function):
        slope = jax.grad(lambda *args: jnp.sum(jnp.sin(function(*args))), argnums=every)
        forward = jax.jvp(slope, args, vector)[1]
        along = lambda *args: sum(jnp.vdot(g, v) for g, v in zip(slope(*args), vector, strict=True))  # noqa: E731
        return forward, jax.grad(along, argnums=every)(*args)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), products(ours), products(theirs))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("side", "height", "width"), [(1, 7, 6), (3, 7, 6), (5, 7, 6), (3, 2, 2), (5, 3, 4), (3, 1, 1)]
)
def test_convolution_and_its_gradients_are_xlas(side, height, width):
    x = jax.random.normal(jax.random.key(0), (2, height, width, 3))
    kernel = jax.random.normal(jax.random.key(1), (side, side, 3, 4))
    pad = [(side // 2, side // 2)] * 2

    def reference(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    weights = jax.random.normal(jax.random.key(2), (2, height, width, 4))
    for ours, theirs in zip(
        jax.value_and_grad(lambda *a: jnp.sum(weights * same_convolution(*a)), argnums=(0, 1))(x, kernel),
        jax.value_and_grad(lambda *a: jnp.sum(weights * reference(*a)), argnums=(0, 1))(x, kernel),
        strict=True,
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), ours, theirs)
    check_derivatives(same_convolution, reference, x, kernel)
    numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    strided = conv_general_dilated(x, kernel, (2, 2), pad, dimension_numbers=numbers)
    np.testing.assert_allclose(strided, reference(x, kernel)[:, ::2, ::2], rtol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("height", "width", "stride"), [(6, 7, 1), (6, 8, 2), (7, 5, 2), (1, 1, 2)])
def test_depthwise_convolution_and_its_gradients_are_xlas(height, width, stride):
    rng = np.random.default_rng(0)
    x, kernel = jnp.asarray(rng.normal(size=(2, height, width, 3))), jnp.asarray(rng.normal(size=(3, 3, 3)))

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel[:, :, None],
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )

    expected, expected_vjp = jax.vjp(grouped, x, kernel)
    found, found_vjp = jax.vjp(lambda x, kernel: depthwise_convolution(x, kernel, stride), x, kernel)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    weights = jnp.asarray(rng.normal(size=found.shape))
    for ours, theirs in zip(found_vjp(weights), expected_vjp(weights), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    check_derivatives(lambda *a: depthwise_convolution(*a, stride), grouped, x, kernel)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("side", "channels"), [(1, (362, 264)), (3, (12, 30)), (5, (30, 29))])
def test_added_channels_do_not_change_a_convolution(side, channels):
    x = jax.random.normal(jax.random.key(0), (1, 4, 5, channels[0]))
    kernel = jax.random.normal(jax.random.key(1), (side, side, *channels))
    aligned = convolution._aligned(x, kernel)
    assert aligned.shape == (1, 4, 5, channels[1])
    np.testing.assert_allclose(aligned, convolution._plain(x, kernel), atol=1e-10)


def test_channels_are_added_up_to_a_multiple_but_a_quarter_at_most():
    assert convolution.missing_channels((1, 1, 362, 264)) == (6, 0)
    assert convolution.missing_channels((5, 5, 264, 98)) == (24, 0)
    assert convolution.missing_channels((3, 3, 3, 66)) == (0, 6)


@pytest.mark.usefixtures("float64")
def test_max_pooling_and_its_gradient_are_flaxs():
    x, weights = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(2, 7, 6, 3), (2, 3, 3, 3)]))

    def reference(x):
        return nn.max_pool(x, (2, 2), strides=(2, 2))

    np.testing.assert_array_equal(max_pool(x), reference(x))
    found, expected = (jax.grad(lambda x, pool=pool: jnp.sum(weights * pool(x)))(x) for pool in (max_pool, reference))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("sides", [(5, 4), (64, 33)])
def test_group_norm_and_its_gradients_are_flaxs(sides):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(1.0, 2.0, (3, *sides, 12)))
    scale, bias, weights = jnp.asarray(rng.normal(size=12)), jnp.asarray(rng.normal(size=12)), rng.normal(size=x.shape)

    def reference(x, scale, bias):
        norm = nn.GroupNorm(num_groups=4, dtype=jnp.float64, param_dtype=jnp.float64)
        return norm.apply({"params": {"scale": scale, "bias": bias}}, nn.leaky_relu(x, 0.2))

    def ours(x, scale, bias):
        return leaky_group_norm(x, scale, bias, 4, 0.2)

    np.testing.assert_allclose(ours(x, scale, bias), reference(x, scale, bias), atol=1e-12)
    gradients = [
        jax.grad(lambda *a, norm=norm: jnp.sum(weights * norm(*a)), argnums=(0, 1, 2))(x, scale, bias)
        for norm in (ours, reference)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), *gradients)
    check_derivatives(ours, reference, x, scale, bias)


def test_group_norm_keeps_its_activations_once_in_their_own_type():
    x, channels = jnp.ones((2, 8, 8, 16), jnp.bfloat16), jnp.ones(16)
    backward = jax.vjp(lambda x: leaky_group_norm(x, channels, channels, 4, 0.01), x)[1]
    large = [leaf for leaf in jax.tree.leaves(backward) if leaf.size >= x.size]
    assert [leaf.dtype for leaf in large] == [jnp.bfloat16]

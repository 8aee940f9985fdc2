import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.export.folding import fold_batch_norms
from jaxlm.networks.mobilenet import DepthwiseConv
from jaxlm.networks.multiply_adds import count_macs


class Everything(nn.Module):
    """Each way in which a norm can follow something."""

    @nn.compact
    def __call__(self, x):
        def norm(name):
            return nn.BatchNorm(use_running_average=True, epsilon=1e-3, name=name)

        x = nn.relu(norm("after_plain")(nn.Conv(8, (3, 3), use_bias=False, name="plain")(x)))
        x = nn.relu(norm("after_biased")(nn.Conv(8, (3, 3), strides=2, name="biased")(x)))
        x = norm("after_depthwise")(DepthwiseConv(name="depthwise")(x))
        x = nn.Conv(8, (1, 1), name="shared")(x)
        x = x + nn.relu(norm("after_shared")(x))  # the convolution's output is wanted as it is, too
        x = norm("after_sum")(x)
        twice = nn.Conv(8, (1, 1), use_bias=False, name="twice")
        x = norm("one")(twice(x)) + norm("other")(twice(nn.relu(x)))  # one kernel, two norms
        same, after = nn.Conv(8, (1, 1), name="same"), norm("after_same")
        x = after(same(x)) - after(same(-x))
        x = nn.BatchNorm(use_running_average=True, use_scale=False, use_bias=False, name="bare")(x)
        return norm("after_dense")(nn.Dense(5, use_bias=False, name="dense")(x.mean(axis=(1, 2))))


def random_variables(module, x):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 2.0, leaf.shape), leaf.dtype)
        return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def test_folding_changes_nothing_but_the_operations(float64):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, 3)))
    module = Everything()
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), random_variables(module, x))
    folded = fold_batch_norms(module.apply, variables, x)
    np.testing.assert_allclose(folded(x), module.apply(variables, x), rtol=1e-10, atol=1e-10)
    assert "rsqrt" not in str(jax.make_jaxpr(folded)(x))
    # Gains are left where the convolution's output has another use, and behind the sum.
    arrays = [constant for constant in jax.make_jaxpr(folded)(x).consts if np.ndim(constant) == 4]
    gains = [np.asarray(a) for a in arrays if a.shape[:3] == (1, 1, 1)]
    shared = variables["params"]["after_shared"]["scale"] / np.sqrt(
        variables["batch_stats"]["after_shared"]["var"] + 1e-3
    )
    assert any(np.allclose(gain.ravel(), shared) for gain in gains)
    plain = variables["params"]["after_plain"]["scale"] / np.sqrt(variables["batch_stats"]["after_plain"]["var"] + 1e-3)
    assert not any(np.allclose(gain.ravel(), plain) for gain in gains)


def test_multiply_adds():
    def network(x, kernel, matrix):
        y = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.einsum("bhwc,cd->bhwd", y, matrix)

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, 6, 3), (3, 3, 3, 4), (4, 5))]
    once = 4 * 3 * 4 * 27 + 4 * 3 * 4 * 5
    assert count_macs(network, *shapes) == once

    def loops(x, matrix):
        x = jax.lax.while_loop(lambda x: x.sum() < 0, lambda x: x @ matrix, x)
        return jax.lax.scan(lambda x, _: (x @ matrix, None), x, None, length=7)[0]

    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 4), (4, 4))]
    assert count_macs(loops, *shapes, loop_steps=3) == (3 + 7) * 2 * 16
    module, x = DepthwiseConv(stride=2), jnp.zeros((1, 8, 8, 6))
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    assert count_macs(module.apply, variables, x) == 16 * 9 * 6

import awing_wflw
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm.systems.optim import make_optimizer, make_schedule


def run(optimizer, params, gradients):
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update({"w": gradient}, state, params)
        params = optax.apply_updates(params, updates)
    return params["w"]


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_rmsprop_is_torch_s_and_does_not_see_the_scale_of_the_loss(float64, scale):
    config = awing_wflw.get_config().optim
    config.update(dict(learning_rate=1e-2, schedule="constant", weight_decay=0.0))
    gradients = scale * np.random.default_rng(0).normal(size=(10, 3, 2))
    weights, average = np.ones((3, 2)), np.zeros((3, 2))
    for gradient in gradients:
        average = 0.99 * average + 0.01 * gradient**2
        weights = weights - 1e-2 * gradient / (np.sqrt(average) + 1e-8)
    ours = run(make_optimizer(config, make_schedule(config, 100)), {"w": jnp.ones((3, 2))}, jnp.asarray(gradients))
    np.testing.assert_allclose(ours, weights, rtol=1e-7)


def test_weight_decay_spares_vectors():
    config = awing_wflw.get_config().optim
    config.update(dict(learning_rate=1e-2, schedule="constant", weight_decay=0.1))
    for shape, moved in (((2, 2), True), ((4,), False)):
        after = run(make_optimizer(config, make_schedule(config, 100)), {"w": jnp.ones(shape)}, jnp.zeros((1, *shape)))
        assert bool((after < 1).all()) == moved


def test_the_paper_s_schedule():
    schedule = make_schedule(awing_wflw.get_config().optim, 240)
    rates = [float(schedule(step)) for step in (0, 79, 81, 159, 161, 239)]
    np.testing.assert_allclose(rates, [1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6], rtol=1e-5)

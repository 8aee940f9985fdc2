import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.networks.blocks import count_parameters
from jaxlm.systems.awing.network import StackedHourglass, coordinate_channels


def tiny(**options):
    return StackedHourglass(5, **{**dict(stacks=2, features=16, depth=1), **options})


def start(model):
    return jax.jit(lambda rng: model.init(rng, jnp.zeros((1, 16, 16, 3)), True))(jax.random.key(0))


def test_parameters_of_the_paper():
    shapes = jax.eval_shape(
        lambda rng: StackedHourglass(98).init(rng, jnp.zeros((1, 64, 64, 3)), True), jax.random.key(0)
    )
    assert round(count_parameters(shapes["params"]) / 1e6, 1) == 24.2


@pytest.mark.parametrize(("stacks", "boundary"), [(1, True), (2, False)])
def test_every_stage_has_heatmaps_at_a_quarter_of_the_resolution(stacks, boundary):
    model = tiny(stacks=stacks, boundary=boundary, coordinates=boundary, boundary_coordinates=boundary)
    images = jax.random.uniform(jax.random.key(1), (2, 32, 48, 3)) * 255
    maps = jax.jit(model.apply)(start(model), images)
    assert maps.shape == (stacks, 2, 8, 12, 5 + boundary)
    assert np.isfinite(maps).all() and (maps.std(axis=(1, 2, 3)) > 0).all()


def test_coordinates_by_hand():
    boundary = jnp.zeros((1, 3, 5, 1)).at[0, 0, 4].set(0.05).at[0, 2, 0].set(0.0499)
    x, y, radius, x_on, y_on = np.moveaxis(np.asarray(coordinate_channels(jnp.zeros((1, 3, 5, 7)), boundary)[0]), -1, 0)
    np.testing.assert_allclose(x[1], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(y[:, 2], [-1, 0, 1])
    assert radius[0, 0] == radius[2, 4] == 1 and radius[1, 2] == 0
    np.testing.assert_allclose(radius[1, 4], np.sqrt(0.5))
    expected = np.zeros((3, 5))
    expected[0, 4] = 1
    np.testing.assert_array_equal(x_on, expected)
    np.testing.assert_array_equal(y_on, -expected)
    assert coordinate_channels(jnp.zeros((1, 3, 5, 7)), None).shape == (1, 3, 5, 3)


def test_only_coordinates_tell_places_apart():
    """On a grey picture, far from the border, a network without coordinates gives the same everywhere."""
    spread = {}
    for coordinates in (False, True):
        model = tiny(stacks=1, coordinates=coordinates, boundary_coordinates=False)
        maps = jax.jit(model.apply)(start(model), jnp.full((1, 256, 256, 3), 90.0))[0, 0, 24:40:2, 24:40:2]
        spread[coordinates] = float(maps.std(axis=(0, 1)).max())
    assert spread[False] < 1e-5 < 1e-3 < spread[True]


def test_temperature_puts_the_peaks_at_one():
    model = tiny(temperature=2.5)
    maps = jax.jit(model.apply)(start(model), jax.random.uniform(jax.random.key(1), (2, 32, 32, 3)) * 255)
    np.testing.assert_allclose(maps.max(axis=(2, 3)), 1.0)
    assert (maps > 0).all()


def test_heatmaps_are_float32_whatever_the_activations_are():
    model = tiny(dtype=jnp.bfloat16)
    images = jax.random.uniform(jax.random.key(1), (1, 16, 16, 3)) * 255
    variables = start(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    maps = jax.jit(model.apply)(variables, images)
    assert maps.dtype == jnp.float32 and (maps != maps.astype(jnp.bfloat16)).mean() > 0.9
    np.testing.assert_allclose(maps, jax.jit(tiny().apply)(variables, images), atol=0.05 * float(jnp.abs(maps).max()))


@pytest.mark.slow
def test_rematerialisation_keeps_less_and_changes_nothing_else():
    images = jax.random.uniform(jax.random.key(1), (2, 64, 64, 3)) * 255
    results, memory = [], []  # memory: numbers kept for the backward pass
    for remat in (False, True):
        model = tiny(stacks=1, boundary_coordinates=False, remat=remat)
        variables = start(model)

        def loss(params, model=model, variables=variables):
            maps, updated = model.apply({**variables, "params": params}, images, True, mutable=["batch_stats"])
            return (maps**2).mean(), updated["batch_stats"]

        _, backward, _ = jax.eval_shape(
            lambda params, loss=loss: jax.vjp(loss, params, has_aux=True), variables["params"]
        )
        memory.append(sum(leaf.size for leaf in jax.tree.leaves(backward)))
        results.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *results)
    assert memory[1] < 0.6 * memory[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(stacks=9), "1 to 8"),
        (dict(features=24), "divisible by 16"),
        (dict(depth=0), "depth at least 1"),
        (dict(boundary=False), "needs boundary"),
    ],
)
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_an_image_that_does_not_fit():
    with pytest.raises(ValueError, match="divisible by 8"):
        tiny().init(jax.random.key(0), jnp.zeros((1, 20, 16, 3)), True)

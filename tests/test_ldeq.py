from functools import cache, partial

import flax.linen as nn
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import systems
from jaxlm.implicit import equilibrium
from jaxlm.networks.blocks import average_pool, count_parameters, upsample_nearest
from jaxlm.solvers import anderson, fixed_point_iteration
from jaxlm.systems.ldeq.network import LDEQ, PRESETS, SplitConv, normalize_heatmaps

SOLVER = partial(anderson, tol=1e-3, max_steps=6)


@cache
def small(**options):
    return LDEQ(5, **{**PRESETS["tiny"], "depth": 2, **options})


@cache
def variables_of(model):
    return jax.jit(model.init)(jax.random.key(0))


def run(model, images, solver=SOLVER, **options):
    """The network, compiled: step by step it takes ten times as long."""
    call = jax.jit(lambda variables, images, options: model(variables, images, solver=solver, **options))
    return call(variables_of(small()), images, options)


def parameters(**sizes):
    shapes = jax.eval_shape(LDEQ(98, **sizes).init, jax.random.key(0))
    return count_parameters(shapes["params"])


def test_parameters_of_the_paper():
    assert round(parameters(**PRESETS["paper"]) / 1e6, 1) == 21.8  # table 1
    assert round(parameters(channels=224, width=224, growth=24, depth=4) / 1e6, 1) == 16.5
    assert parameters(**PRESETS["tiny"]) < 0.4e6


def test_flops_of_the_cell():
    model = LDEQ(98, channels=224, width=224, growth=24)
    params = jax.eval_shape(model.init, jax.random.key(0))["params"]["cell"]
    z, x = (jax.ShapeDtypeStruct((1, 64, 64, c), jnp.float32) for c in (98, 224))

    def whole(params, z, x):
        return model.cell(z, (params, model._cell.apply({"params": params}, x, method="inject")))

    flops = jax.jit(whole).lower(params, z, x).compile().cost_analysis()["flops"]
    np.testing.assert_allclose(flops, 23.7e9, rtol=0.01)


def test_the_split_convolution_is_that_of_both_inputs():
    x, z = (jax.random.normal(jax.random.key(i), (2, 4, 3, channels)) for i, channels in enumerate((8, 5)))
    conv = SplitConv(8, 5, 16)
    params = conv.init(jax.random.key(2), z, method="of_state")
    params["params"]["bias"] = jnp.arange(16.0)
    found = conv.apply(params, x, method="of_input") + conv.apply(params, z, method="of_state")
    expected = nn.Conv(16, (1, 1)).apply(params, jnp.concatenate([x, z], axis=-1))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_heatmaps_peak_at_one_and_landmarks_lie_inside():
    model = small()
    images = jax.random.uniform(jax.random.key(1), (2, 48, 64, 3)) * 255
    output = run(model, images)
    assert output.heatmaps.shape == (2, 12, 16, 5)
    np.testing.assert_allclose(output.heatmaps.max(axis=(1, 2)), 1.0)
    assert (
        (output.landmarks > 0).all() and (output.landmarks[..., 0] < 64).all() and (output.landmarks[..., 1] < 48).all()
    )
    assert output.stats.residual.shape == (2,)


def test_temperature_sharpens():
    logits = jax.random.normal(jax.random.key(0), (1, 4, 4, 2))
    expected = np.exp((np.asarray(logits) - np.asarray(logits).max(axis=(1, 2), keepdims=True)) / 2.5)
    np.testing.assert_allclose(normalize_heatmaps(logits, 2.5), expected, rtol=1e-6)


def test_phi_returns_image_pixels():
    z = jnp.zeros((1, 16, 16, 1)).at[0, 3, 10, 0].set(1.0)
    np.testing.assert_allclose(small().to_landmarks(z)[0, 0], [10 * 4 + 1.5, 3 * 4 + 1.5])
    np.testing.assert_allclose(small(released=True).to_landmarks(z)[0, 0], [10 * 4, 3 * 4])


def test_the_equilibrium_is_one_and_a_warm_start_keeps_it():
    model = small(temperature=40.0)  # flat heatmaps: an untrained cell that contracts
    images = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3)) * 255
    solver = partial(fixed_point_iteration, tol=1e-5, max_steps=100)
    cold = run(model, images, solver)
    warm = run(model, images, solver, z0=cold.heatmaps)
    assert cold.stats.converged.all() and warm.stats.num_steps <= 2 < cold.stats.num_steps
    np.testing.assert_allclose(warm.landmarks, cold.landmarks, atol=1e-3)


def test_explicit_mode_is_the_plain_iteration():
    model = small()
    images = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3)) * 255
    output, stages = jax.jit(lambda v, x: model.explicit(v, x, num_steps=4))(variables_of(model), images)
    solver = partial(fixed_point_iteration, tol=0.0, max_steps=4)  # z3, and the tracked application
    assert stages.shape == (4, 2, 8, 8, 5)
    np.testing.assert_array_equal(stages[-1], output.heatmaps)
    np.testing.assert_allclose(run(model, images, solver).landmarks, output.landmarks, atol=2e-2)


def test_bfloat16_keeps_float32_parameters_and_heatmaps():
    full, half = small(), small(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    images = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3)) * 255
    output = run(half, images)
    assert output.heatmaps.dtype == output.landmarks.dtype == jnp.float32
    np.testing.assert_allclose(output.landmarks, run(full, images).landmarks, atol=0.6)


def test_batch_statistics_move_in_training_only():
    model = small()
    images = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3)) * 255
    kept = run(model, images).batch_stats
    train = jax.jit(lambda variables: model(variables, images, solver=SOLVER, train=True).batch_stats)
    moved = train(variables_of(model))
    before = jax.tree.leaves(variables_of(model)["batch_stats"])
    assert all((a == b).all() for a, b in zip(before, jax.tree.leaves(kept), strict=True))
    assert any((a != b).any() for a, b in zip(before, jax.tree.leaves(moved), strict=True))


def test_sizes_that_do_not_divide_are_named():
    model = small()
    variables = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(ValueError, match="60 × 32 pixels, but both sides must be divisible by 16"):
        jax.eval_shape(lambda v: model(v, jnp.zeros((1, 32, 60, 3)), solver=SOLVER), variables)
    with pytest.raises(ValueError, match="width and growth by 8"):
        LDEQ(5, width=30)


def test_pooling_and_upsampling_by_hand():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    up = upsample_nearest(x)
    np.testing.assert_array_equal(up[0, :, :, 0], [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
    np.testing.assert_array_equal(average_pool(up), x)


@pytest.mark.usefixtures("float64")
def test_second_derivatives_at_the_cell_s_equilibrium():
    """Forward over reverse, from a warm start, against the differentiated plain iteration."""
    model = LDEQ(5, **PRESETS["nano"], dtype=jnp.float64)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), model.init(jax.random.key(0)))
    images = jax.random.uniform(jax.random.key(1), (1, 16, 16, 3), jnp.float64, 0.0, 255.0)
    injection, _ = model.inject(variables, images)
    cell = variables["params"]["cell"]
    cell["exit"]["kernel"] *= 0.05  # an untrained cell need not contract
    solver = partial(anderson, tol=1e-13, max_steps=100)

    def implicit(cell, z0):
        options = dict(solver=solver, adjoint_solver=solver)
        return jnp.sum(equilibrium(model.cell, z0, (cell, injection), **options)[0] ** 2)

    def iterated(cell, z0):
        return jnp.sum(jax.lax.scan(lambda z, _: (model.cell(z, (cell, injection)), None), z0, None, length=40)[0] ** 2)

    z0 = model.initial_heatmaps(images).astype(jnp.float64)
    z_star, stats = solver(lambda z: model.cell(z, (cell, injection)), z0)
    assert stats.converged.all() and 5 < stats.num_steps < 30
    vector = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape, leaf.dtype), cell)

    def product(loss, z0):
        slope = jax.jit(lambda cell: jax.jvp(jax.grad(lambda cell: loss(cell, z0)), (cell,), (vector,))[1])
        return jax.flatten_util.ravel_pytree(slope(cell))[0]

    expected = product(iterated, z0)
    assert jnp.linalg.norm(product(implicit, z_star) - expected) < 1e-8 * jnp.linalg.norm(expected)


def unconverged_config(choice):
    import quickstart

    config = quickstart.get_config("smoke")
    config.update(image_size=32, gradient="implicit", unconverged=choice)
    config.model.temperature = 10.0  # flat heatmaps: an untrained cell that contracts
    config.adjoint.update(name="fixed_point_iteration", max_steps=1, tol=1e-6)
    return config


def test_what_a_config_does_where_the_adjoint_does_not_converge():
    batch = {
        "image": jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)), jnp.uint8),
        "landmarks": jnp.full((2, 68, 2), 16.0),
        "mask": jnp.ones((2, 68), bool),
        "normalizer": jnp.full(2, 10.0),
    }
    norms = {}
    for choice in ("keep", "phantom", "gmres", "exact"):
        config = unconverged_config("keep" if choice == "exact" else choice)
        if choice == "exact":
            config.adjoint.update(name="gmres", max_steps=30, memory=20, tol=1e-5)
        system = systems.build(config)
        state = jax.jit(system.init)(jax.random.key(0))
        _, logs = jax.jit(system.train_step)(state, batch, jax.random.key(1))
        assert choice == "exact" or logs["adjoint_converged"] == 0.0
        norms[choice] = float(logs["grad_norm"])
    np.testing.assert_allclose(norms["gmres"], norms["exact"], rtol=1e-2)
    assert all(abs(norms[choice] / norms["exact"] - 1) > 0.02 for choice in ("keep", "phantom"))
    with pytest.raises(ValueError, match="unconverged is 'stpo'; choose one of keep, phantom, gmres, stop"):
        systems.build(unconverged_config("stpo"))


def test_a_config_can_stop_where_the_adjoint_does_not_converge():
    check = systems.build(unconverged_config("stop")).check
    assert check({"adjoint_converged": 1.0}) is None and systems.build(unconverged_config("keep")).check is None
    message = check({"adjoint_converged": 0.75, "adjoint_residual": 0.3})
    assert message.startswith("the adjoint solver did not converge for 25% of the samples (mean residual 0.3); raise")


def test_a_tolerance_that_bfloat16_cannot_reach_warns():
    config = unconverged_config("keep")
    config.model.dtype, config.solver.tol, config.adjoint.tol = "bfloat16", 5e-3, 1e-2
    with pytest.warns(UserWarning, match=r"solver\.tol = 0\.005 is near the residual of 5e-3"):
        systems.build(config)
    config.model.update(dtype="float32", untied=True)
    with pytest.raises(ValueError, match=r"model\.untied goes with model\.explicit"):
        systems.build(config)

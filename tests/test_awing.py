import functools

import awing_faces68
import jax
import jax.numpy as jnp
import ldeq_faces68
import numpy as np
import pytest

from jaxlm import heatmaps, losses, systems
from jaxlm.schemes import get_scheme
from jaxlm.systems.objective import heatmap_target, make_objective

SCHEME = get_scheme("faces68")


def make_config(**options):
    config = awing_faces68.get_config("smoke")
    config.image_size = 32
    config.model.update(dict(stacks=1, boundary_coordinates=False))
    config.update_from_flattened_dict(options)
    return config


@functools.cache
def untrained():
    return jax.jit(systems.build(make_config()).init)(jax.random.key(0)).variables


def make_batch(size=32, count=2):
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (count, size, size, 3)), jnp.uint8),
        "landmarks": jnp.asarray(rng.uniform(4, size - 4, (count, 68, 2)), jnp.float32),
        "mask": jnp.ones((count, 68), bool).at[0, 3].set(False),
        "normalizer": jnp.full((count,), 10.0),
    }


def test_targets_lie_at_the_landmarks_in_cells():
    config, batch = make_config(), make_batch()
    batch["landmarks"] = batch["landmarks"].at[1, 7].set(jnp.array([40.0, 5.0]))
    target, mask = heatmap_target(batch, (8, 8), SCHEME, config.heatmap, boundary=True)
    assert target.shape == (2, 8, 8, 69)
    np.testing.assert_array_equal(mask[:, [3, 7, 8, 68]], [[False, True, True, True], [True, False, True, True]])
    cells = (np.asarray(batch["landmarks"][1, 8]) + 0.5) / 4 - 0.5
    np.testing.assert_array_equal(
        np.unravel_index(np.argmax(target[1, :, :, 8]), (8, 8)), np.round(cells)[::-1].astype(int)
    )
    assert target[1, :, :, 7].max() == 0


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("weight_map", ["none", "baseline", "dilated"])
def test_the_heatmap_objective_is_the_mean_over_what_exists_summed_over_stages(weight_map):
    config = make_config(**{"heatmap.weight_map": weight_map})
    batch = make_batch()
    stages = jnp.asarray(np.random.default_rng(1).uniform(-0.5, 1.5, (3, 2, 8, 8, 69)))
    target, mask = (np.asarray(x) for x in heatmap_target(batch, (8, 8), SCHEME, config.heatmap, boundary=True))
    weight = {"none": 0.0, "baseline": 10 * target}.get(weight_map)
    if weight is None:
        padded = np.pad(target, ((0, 0), (1, 1), (1, 1), (0, 0)))
        dilated = np.max([padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)], axis=0)
        weight = 10.0 * (dilated >= 0.2)
    expected = 0.0
    for stage in np.asarray(stages):
        error = np.abs(stage - target)
        power = 0.5 ** (2.1 - target)
        slope = 14 / (1 + power) * (2.1 - target) * 0.5 ** (1.1 - target)
        value = np.where(
            error < 0.5, 14 * np.log1p(error ** (2.1 - target)), slope * (error - 0.5) + 14 * np.log1p(power)
        )
        expected += (value * (1 + weight)).mean(axis=(1, 2))[mask].mean()
    np.testing.assert_allclose(make_objective(config)(stages, batch), expected, rtol=1e-6)


def test_a_missing_landmark_has_no_gradient():
    objective, batch = make_objective(make_config()), make_batch()
    stages = jax.random.uniform(jax.random.key(0), (2, 2, 8, 8, 69))
    gradient = jax.grad(objective)(stages, batch)
    assert (gradient[:, 0, :, :, 3] == 0).all() and (gradient[:, 0, :, :, 4] != 0).any()
    assert (jnp.abs(gradient[:, 1]).sum(axis=(1, 2)) > 0).all()


def test_the_landmark_objective_is_in_units_of_the_side():
    config, batch = make_config(), make_batch()
    config.loss = dict(on="landmarks", name="l1", options={})
    cells = (batch["landmarks"] + 0.5) / 4 - 0.5
    sharp = heatmaps.encode_gaussian(jnp.clip(cells, 2, 5), (8, 8), 0.4)[None]
    landmarks = (heatmaps.soft_argmax(sharp[0]) + 0.5) * 4 - 0.5
    distance = jnp.abs(landmarks - batch["landmarks"]).sum(axis=-1) / 32
    objective = make_objective(config)
    np.testing.assert_allclose(objective(sharp, batch), losses.masked_mean(distance, batch["mask"]), rtol=1e-6)
    batch["landmarks"] = batch["landmarks"].at[0, 5].set(jnp.array([33.0, 9.0]))  # off the image
    gradient = jax.grad(objective)(sharp, batch)
    assert (gradient[0, 0, :, :, [3, 5]] == 0).all() and (gradient[0, 0, :, :, 4] != 0).any()


def test_it_learns_one_batch():
    config = make_config()
    config.optim.update(dict(schedule="constant", learning_rate=3e-3, ema=0.9))
    system, batch = systems.build(config), make_batch()
    state, step = jax.jit(system.init)(jax.random.key(0)), jax.jit(system.train_step)
    errors, values = [], []
    for number in range(60):
        state, logs = step(state, batch, jax.random.key(number))
        errors.append(float(logs["nme"]))
        values.append(float(logs["loss"]))
    assert values[-1] < 0.5 * values[0] and np.mean(errors[-5:]) < 0.8 * errors[0]


@pytest.mark.parametrize("decode", ["quarter_pixel", "soft_argmax", "local_soft_argmax"])
def test_landmarks_are_in_pixels_with_a_score(decode):
    config = make_config(decode=decode)
    config.eval.flip_average = False
    system, batch = systems.build(config), make_batch()
    prediction = jax.jit(system.predict)(untrained(), batch["image"])
    assert prediction.landmarks.shape == (2, 68, 2) and prediction.score.shape == (2, 68)
    assert (prediction.score > 0).all() and (prediction.score <= 1).all()
    maps = np.asarray(prediction.aux["heatmaps"])[..., :68]
    rows, columns = np.divmod(maps.reshape(2, 64, 68).argmax(axis=1), 8)
    peaks = (np.stack([columns, rows], axis=-1) + 0.5) * 4 - 0.5
    distance = np.abs(prediction.landmarks - peaks).max()
    assert distance <= {"quarter_pixel": 1.0, "local_soft_argmax": 7.9, "soft_argmax": 31.0}[decode]
    assert (distance > 8) == (decode == "soft_argmax")


def test_flip_averaging_makes_predictions_symmetric():
    config = make_config()
    config.eval.flip_average = True
    system, batch = systems.build(config), make_batch()
    predict = jax.jit(system.predict)
    here = predict(untrained(), batch["image"]).landmarks
    there = predict(untrained(), batch["image"][:, :, ::-1]).landmarks[:, SCHEME.flip]
    np.testing.assert_allclose(there.at[..., 0].set(31 - there[..., 0]), here, atol=1e-3)


def test_a_soft_argmax_on_the_hourglass():
    config = awing_faces68.get_config("soft_argmax")
    config.image_size = 32
    config.model.update(dict(stacks=1, features=16, depth=1, coordinates=False))
    config.eval.flip_average = False
    system, batch = systems.build(config), make_batch()
    state = jax.jit(system.init)(jax.random.key(0))
    maps = jax.jit(system.predict)(state.variables, batch["image"]).aux["heatmaps"]
    np.testing.assert_allclose(maps.max(axis=(1, 2)), 1.0)
    _, logs = jax.eval_shape(system.train_step, state, batch, jax.random.key(0))
    assert set(logs) == {"loss", "nme", "grad_norm"}


def test_adaptive_wing_on_the_equilibrium():
    config = ldeq_faces68.get_config("awing")
    config.image_size, config.model.preset = 32, "nano"
    system, batch = systems.build(config), make_batch()
    state = jax.jit(system.init)(jax.random.key(0))
    _, logs = jax.jit(system.train_step)(state, batch, jax.random.key(0))
    assert float(logs["grad_norm"]) > 0 and np.isfinite(float(logs["loss"])) and "residual" in logs
    with config.unlocked():
        del config.heatmap
    with pytest.raises(ValueError, match=r"needs the block config\.heatmap"):
        systems.build(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decode": "argmax"}, "choose one of quarter_pixel"),
        ({"loss.name": "huber"}, "choose one of mse, l1, smooth_l1, wing, adaptive_wing"),
        ({"loss.name": "mse"}, "alpha, epsilon, omega, theta; mse takes none"),
        ({"loss.on": "pixels"}, "must be landmarks or heatmaps"),
        ({"heatmap.weight_map": "hard"}, "choose one of none, baseline, dilated"),
        ({"model.dtype": "float16"}, "float32 or bfloat16"),
        ({"model.stacks": 0}, "1 to 8"),
        ({"heatmap.sigma": 0.0}, "must be positive"),
        ({"loss.options.theta": 0.0}, r"loss\.options must be positive"),
    ],
)
def test_a_config_that_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        systems.build(make_config(**options))


def test_a_model_field_that_does_not_exist():
    config = make_config()
    with config.unlocked():
        config.model.stakcs = 3
    with pytest.raises(ValueError, match="stakcs"):
        systems.build(config)


def test_a_landmark_loss_needs_a_temperature_and_no_boundary():
    config = make_config()
    config.loss = dict(on="landmarks", name="l1", options={})
    with pytest.raises(ValueError, match=r"set model\.temperature"):
        systems.build(config)
    config.model.temperature = 2.5
    with pytest.raises(ValueError, match=r"set model\.boundary = False"):
        systems.build(config)
    config.model.boundary = False
    systems.build(config)

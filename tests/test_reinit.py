import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reinit_300w
import reinit_aflw
import reinit_faces68
import reinit_wflw
from data_sets import write_pts
from ml_collections import ConfigDict

from jaxlm import geometry, systems, training
from jaxlm.networks.blocks import count_parameters
from jaxlm.schemes import get_scheme
from jaxlm.systems.reinit.network import STAGES, ProgressiveNetwork, ShapeRegressor
from jaxlm.systems.reinit.system import _restart, make_model, phase_plan, phase_schedule
from jaxlm.workdir.restore import restore_variables

ROOT = Path(__file__).parents[1]
SCHEME = get_scheme("faces68")
PARTS = tuple(points for name, points in SCHEME.parts.items() if name != "contour")


def make_config(**fields):
    config = reinit_faces68.get_config("smoke")
    config.model.update(dict(backbone="nano", global_side=32, local_side=32))
    config.loss.name, config.loss.options = "l1", {}
    for phase, rate in {"reinit": 1e-2, "regress": 1e-2, "local": 2e-3, "finetune": 1e-3}.items():
        config.phases[phase].update({"share": 1.0, "learning_rate": rate})
    config.optim.update(dict(clip_norm=0.0, ema=0.5))
    config.train.update(dict(num_steps=40, batch_size=4, log_every=10, checkpoint_every=5))
    config.update_from_flattened_dict(fields)
    return config


def make_batch(count=4, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (count, 128, 128, 3)), jnp.uint8),
        "landmarks": jnp.asarray(64 + 25 * mean_face()[None] + rng.normal(size=(count, 68, 2)), jnp.float32),
        "mask": jnp.ones((count, 68), bool).at[0, 3].set(False),
        "normalizer": jnp.full((count,), 25.0),
        "visibility": jnp.ones((count, 68)),
        "bbox": jnp.zeros((count, 4)),
        "transform": jnp.zeros((count, 2, 3)),
    }


def mean_face():
    rng = np.random.default_rng(7)
    half = rng.uniform(0.1, 1.0, (68, 2))
    side = np.sign(SCHEME.flip - np.arange(68))  # 0 on the axis of symmetry
    face = half[np.minimum(SCHEME.flip, np.arange(68))] * np.stack([side, np.ones(68)], axis=1)
    low, high = face.min(axis=0), face.max(axis=0)
    return (2 * (face - low) / (high - low) - 1).astype(np.float32)


def fill(path, leaf):
    """A parameter as the network starts with it: what drawing it would compile for takes many seconds."""
    name = path[-1].key
    if name in ("scale", "var"):
        return jnp.ones(leaf.shape, leaf.dtype)
    if name == "negative_slope":
        return jnp.asarray(0.25, leaf.dtype)
    if name != "kernel" or any(key.key == "last" for key in path[:-1] if "trunk" not in str(path)):
        return jnp.zeros(leaf.shape, leaf.dtype)
    rng = np.random.default_rng(leaf.size)
    return jnp.asarray(rng.normal(size=leaf.shape) * np.sqrt(2.0 / np.prod(leaf.shape[:-1])), leaf.dtype)


def initial(init, *args):
    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(init, *args))


def start(config):
    system = systems.build(config)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    live = {name: jax.tree_util.tree_map_with_path(fill, getattr(shapes, name)) for name in ("params", "batch_stats")}
    rest = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    state = rest._replace(**live, ema=jax.tree.map(jnp.copy, live))
    assert system.fit is not None
    return system, system.fit(state, {"landmarks": mean_face()[None] * 50, "mask": np.ones((1, 68), bool)})


@pytest.fixture(scope="module")
def progressive():
    return start(make_config())


def randomised(variables, seed=0, by=0.05):
    """Every parameter moved, so that nothing is the identity any more."""
    rng = np.random.default_rng(seed)
    move = lambda leaf: leaf + by * jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)  # noqa: E731
    return {**variables, "params": jax.tree.map(move, variables["params"])}


def test_before_training_every_face_is_the_mean_face(progressive):
    system, state = progressive
    prediction = jax.jit(system.predict)(state.variables, make_batch()["image"])
    expected = geometry.from_unit(mean_face() / 1.2, 128)
    np.testing.assert_allclose(prediction.landmarks, np.broadcast_to(expected, (4, 68, 2)), atol=2e-3)
    assert (prediction.score == 1).all()


@pytest.mark.parametrize(("reinitialize", "refine"), [("none", "none"), ("shape", "box"), ("network", "network")])
def test_the_stages_compose_as_equation_7(reinitialize, refine):
    model = ProgressiveNetwork(
        68, PARTS, "nano", reinitialize=reinitialize, refine=refine, global_side=32, local_side=32
    )
    images = make_batch()["image"].astype(jnp.float32)
    variables = randomised(initial(model.init, jax.random.key(0), images))
    variables["batch_stats"]["mean_shape"] = jnp.asarray(mean_face())
    outputs = jax.jit(model.apply)(variables, images)
    expected = np.array(outputs.shape)
    for part, local in zip(PARTS, outputs.locals, strict=False):
        expected[:, part] = geometry.apply_affine(np.asarray(local.matrix), np.asarray(local.shape))
        start = geometry.apply_affine(np.asarray(local.matrix), np.asarray(local.initial))
        np.testing.assert_allclose(start, outputs.shape[:, list(part)], atol=1e-4)
        assert local.patch.shape == (4, 32, 32, 3)
    expected = geometry.apply_affine(np.asarray(outputs.matrix), expected)
    np.testing.assert_allclose(outputs.landmarks, expected, atol=1e-4)
    contour = list(SCHEME.parts["contour"])
    back = geometry.apply_affine(np.asarray(outputs.matrix), np.asarray(outputs.shape))
    np.testing.assert_allclose(outputs.landmarks[:, contour], back[:, contour], atol=1e-4)
    moved = np.abs(np.asarray(outputs.landmarks) - back).max(axis=(0, 2))
    assert (moved[list(PARTS[0])] > 1e-3).all() == (refine != "none")


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_gradients_of_the_two_stages_are_the_finite_differences():
    """The whole network, from the image through two samplers and Eq. (7), in a few random directions."""
    model = ProgressiveNetwork(68, PARTS[:1], "nano", global_side=32, local_side=32)
    images = make_batch(1)["image"].astype(jnp.float64)
    variables = randomised(initial(model.init, jax.random.key(0), images), by=0.01)
    variables["batch_stats"]["mean_shape"] = jnp.asarray(mean_face())
    params, statistics = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64), (variables["params"], variables["batch_stats"])
    )
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(1, 68, 2)))

    @jax.jit
    def value(params):
        return (weight * model.apply({"params": params, "batch_stats": statistics}, images).landmarks).sum()

    gradient = jax.jit(jax.grad(value))(params)
    for stage in STAGES:  # one stage at a time, so that each has to be right
        direction = jax.tree.map(jnp.zeros_like, params)
        direction[stage] = randomised({"params": direction}, seed=2)["params"][stage]
        ends = [
            value(jax.tree.map(lambda leaf, d, step=step: leaf + step * d, params, direction)) for step in (1e-7, -1e-7)
        ]
        exact = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)))
        np.testing.assert_allclose((ends[0] - ends[1]) / 2e-7, exact, rtol=2e-4, err_msg=stage)
        assert abs(exact) > 1e-3


@pytest.fixture(scope="module")
def taught():
    """Four turned faces, learnt by heart: the state at each step's beginning and end, and every batch's loss."""
    system, state = start(make_config())
    mesh, batch = training.data_mesh(), make_batch()
    turned = geometry.similarity(0.8, 12.0, np.full(2, 63.5), np.array([66.0, 60.0]))
    batch["landmarks"] = jnp.asarray(geometry.apply_affine(turned, np.asarray(batch["landmarks"])), jnp.float32)
    batch = training.shard_batch(jax.device_get(batch), mesh)
    state, states, values = training.replicate(state, mesh), [], []
    names, compiled = [], {}
    for number in range(1, 41):
        name, step = system.schedule(number)
        if name not in names:
            names.append(name)
            states.append(jax.device_get(state))
            compiled[name] = training.make_train_step(step)
        state, logs = compiled[name](state, batch, jax.random.key(0))
        values.append(float(logs["loss"]))
        assert np.isfinite(logs["nme"]) and logs["grad_norm"] > 0
    return names, [*states, jax.device_get(state)], values


def test_each_training_step_trains_its_own_stages_and_nothing_else(taught):
    """Weight decay, momentum and running statistics of what is frozen do not move it, either."""
    names, states, _ = taught
    trained = {
        "reinit": {"reinit"},
        "regress": {"regressor"},
        "local": {"local_reinit", "local_regressor"},
        "finetune": {"reinit", "regressor", "local_reinit", "local_regressor"},
    }
    assert names == list(trained)
    for phase, before, after in zip(names, states, states[1:], strict=False):
        for part in ("params", "batch_stats"):
            for name, old in getattr(before, part).items():
                same = jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), old, getattr(after, part)[name]))
                assert same == (name not in trained[phase]), (phase, part, name)


def test_the_stages_learn(taught):
    _, _, values = taught
    for first in (0, 10, 20, 30):
        assert np.mean(values[first + 7 : first + 10]) < np.mean(values[first : first + 3]), first


def test_the_last_step_measures_in_the_crop():
    """Errors in the normalised states could be lowered by zooming out, so all of Eqs. (5) and (6) is taken in F_0."""
    config = make_config()
    system, state = start(config)
    state = state._replace(params=randomised(state.variables)["params"])
    batch = make_batch()
    _, logs = jax.jit(system.train_step)(state, batch, jax.random.key(0))
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    apply = jax.jit(lambda v, x: make_model(config).apply(v, x, STAGES, mutable=["batch_stats"])[0])
    outputs = apply(variables, batch["image"].astype(jnp.float32))
    target, mask = geometry.to_unit(np.asarray(batch["landmarks"]), 128), np.asarray(batch["mask"])
    distance = np.linalg.norm(target[:, 36] - target[:, 45], axis=-1)
    usual = np.linalg.norm(mean_face()[36] - mean_face()[45]) / 1.2
    distance = np.maximum(distance, usual / 2)
    expected = 0.0
    for shape in (geometry.apply_affine(np.asarray(outputs.matrix), np.asarray(outputs.shape)), outputs.landmarks):
        expected += (np.abs(shape - target).sum(axis=-1) / distance[:, None])[mask].mean()
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-3)


def test_faces_whose_eyes_coincide_have_a_gradient():
    system, state = start(make_config(**{"model.refine": "none"}))
    batch = make_batch()
    batch["landmarks"] = batch["landmarks"].at[0, 45].set(batch["landmarks"][0, 36])
    batch["mask"] = batch["mask"].at[1, 36].set(False)
    _, logs = jax.jit(system.train_step)(state, batch, jax.random.key(0))
    assert np.isfinite(logs["loss"]) and np.isfinite(logs["grad_norm"])


def test_what_was_frozen_starts_with_fresh_moments_and_the_schedule_goes_on():
    optimizer = optax.adamw(optax.linear_schedule(1.0, 0.0, 100), weight_decay=0.0)
    params = {"a": jnp.ones(3)}
    state = optimizer.init(params)
    for _ in range(50):
        _, state = optimizer.update({"a": jnp.zeros(3)}, state, params)
    whole = systems.TrainState(jnp.asarray(50), params, {}, {}, state)
    sizes = {}
    for now in (False, True):
        restarted = _restart(optimizer, whole, jnp.asarray(now))
        update, _ = optimizer.update({"a": jnp.ones(3)}, restarted, params)
        sizes[now] = float(-update["a"][0])
    np.testing.assert_allclose(sizes[True], 0.5, rtol=1e-3)  # the learning rate, half way down
    assert abs(sizes[False] - 0.5) > 0.1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model.reinitialize": "none", "model.refine": "none"}, ["regress", "finetune"]),
        ({"model.refine": "none"}, ["reinit", "regress", "finetune"]),
        ({"phases.finetune.share": 0.0, "model.refine": "box"}, ["reinit", "regress", "local"]),
    ],
)
def test_steps_that_a_model_does_not_have_leave_their_share_to_the_others(fields, expected):
    plan = phase_plan(make_config(**fields))
    assert [name for name, _ in plan] == expected and plan[-1][1] == 40


def test_the_learning_rate_decays_to_zero_in_each_step():
    config = make_config()
    plan = phase_plan(config)
    schedule = phase_schedule(config, plan)
    begin = 0
    for name, last in plan:
        rate = config.phases[name].learning_rate
        np.testing.assert_allclose(schedule(begin), rate, rtol=1e-6)
        np.testing.assert_allclose(schedule((begin + last) // 2), rate / 2, rtol=1e-5)
        begin = last


def test_the_halves_are_the_whole(progressive):
    """Located in the crop, resampled from the picture: with the crop as the picture it is the prediction."""
    system, state = progressive
    variables = randomised(state.variables)
    images = make_batch()["image"]
    y, x = np.mgrid[:128, :128]
    smooth = jnp.asarray(
        np.stack([127 + 100 * np.sin(x / 17), 127 + 90 * np.cos(y / 23), x + y], -1)[None] % 256, jnp.float32
    )
    images = jnp.broadcast_to(smooth, images.shape)
    whole = jax.jit(system.predict)(variables, images)
    assert system.halves is not None
    located = np.asarray(jax.jit(system.halves.locate)(variables, images))
    from jaxlm.systems.reinit.sampler import warp

    side = system.halves.side
    unit = geometry.invert_affine(np.asarray(whole.aux["matrix"]))
    np.testing.assert_allclose(located, geometry.unit_to_pixels(unit, 128, side), rtol=1e-4, atol=1e-3)
    faces = warp(images, whole.aux["matrix"], side)
    found = jax.jit(system.halves.regress)(variables, faces)
    back = geometry.apply_affine(geometry.invert_affine(located), np.asarray(found.landmarks))
    np.testing.assert_allclose(back, whole.landmarks, atol=1e-2)


def test_parameters_of_table_2():
    """98 points: the number of parameters of the released regressor; 68 points: 15 420 fewer."""
    for points, expected in ((98, 493_510), (68, 478_090)):
        shapes = jax.eval_shape(
            lambda key, points=points: ShapeRegressor("small", points).init(key, jnp.zeros((1, 256, 256, 3)), False),
            jax.random.key(0),
        )
        assert count_parameters(shapes["params"]) == expected


def test_the_adaptive_loss_drops_into_the_deep_equilibrium():
    import ldeq_faces68

    from jaxlm.systems.objective import make_objective

    config = ldeq_faces68.get_config("smoke")
    config.loss.name, config.loss.options = "adaptive_l1", {"unit": 0.0001}
    stages = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 3, 16, 16, 68)), jnp.float32)
    batch = {
        "image": jnp.zeros((3, 64, 64, 3)),
        "landmarks": jnp.asarray(np.random.default_rng(1).uniform(5, 60, (3, 68, 2)), jnp.float32),
        "mask": jnp.ones((3, 68), bool),
    }
    nearly = make_objective(config)(stages, batch)
    config.loss.options = {"unit": 50.0}
    weighted = make_objective(config)(stages, batch)
    config.loss.name, config.loss.options = "l1", {}
    plain = make_objective(config)(stages, batch)
    np.testing.assert_allclose(nearly, plain, rtol=1e-5)
    assert weighted < 0.9 * plain


def test_eight_devices_weigh_over_the_whole_batch():
    """The statistics of Eq. (9) are those of the global batch when it is split over devices."""
    code = """
import sys, numpy as np, jax, jax.numpy as jnp
sys.path[:0] = [sys.argv[1]]
from jaxlm import losses, training
mesh = training.data_mesh()
error = np.random.default_rng(0).normal(size=(16, 5, 2)).astype(np.float32)
split = training.shard_batch({"error": error}, mesh)["error"]
found = jax.jit(losses.adaptive_landmark_weight)(split)
expected = np.exp(-error.std(axis=0) * np.abs(error - error.mean(axis=0)))
assert len(found.sharding.device_set) == jax.device_count() == 8
np.testing.assert_allclose(found, expected, rtol=1e-5)
"""
    flags = os.environ["XLA_FLAGS"].replace("count=1", "count=8")
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", code, str(ROOT)], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("model.reinitialize", "twice", "model.reinitialize must be one of none, shape, network"),
        ("model.backbone", "vgg", "resnet50"),
        ("model.reinit_side", 64, "must be 128"),
        ("loss.name", "adaptive_wing", "adaptive_l1"),
        ("loss.on", "heatmaps", "loss.on must be landmarks"),
        ("phases.reinit.share", -1.0, "negative"),
    ],
)
def test_what_does_not_exist_is_named(field, value, match):
    with pytest.raises(ValueError, match=match):
        systems.build(make_config(**{field: value}))


@pytest.mark.slow
def test_every_config_and_backbone_builds():
    for config in (
        *(
            reinit_300w.get_config(variant)
            for variant in ("small", "medium", "large", "b1", "b2", "glsr_star", "smoke")
        ),
        *(reinit_wflw.get_config(variant) for variant in ("", "large", "released", "adaptive", "smoke")),
        *(reinit_aflw.get_config(variant) for variant in ("", "gsr", "smoke")),
    ):
        system = systems.build(config)
        state = jax.eval_shape(system.init, jax.random.key(0))
        images = jax.ShapeDtypeStruct((2, config.image_size, config.image_size, 3), jnp.float32)
        prediction = jax.eval_shape(system.predict, state.variables, images)
        assert prediction.landmarks.shape == (2, get_scheme(config.scheme).num_landmarks, 2)
    with pytest.raises(ValueError, match="glsr"):
        reinit_300w.get_config("nothing")


@pytest.mark.slow
def test_training_goes_on_inside_and_between_the_steps_to_the_same_bits(tmp_path, monkeypatch):
    write_pts(tmp_path / "data" / "300w" / "lfpw" / "trainset", 24)
    make_train_step = training.make_train_step

    def run(name, stop=None):
        config = make_config(**{"model.refine": "none", "train.num_steps": 30})
        config.data.root, config.data.cache = str(tmp_path / "data"), str(tmp_path / "cache")
        config.data.sources = ConfigDict({"300w": config.data.sources["300w"]})
        config.eval.sets = ()

        def interrupted(phase):
            step = make_train_step(phase)

            def limited(state, batch, rng):
                if stop is not None and int(state.step) == stop:
                    raise KeyboardInterrupt
                return step(state, batch, rng)

            return limited

        monkeypatch.setattr(training, "make_train_step", interrupted)
        if stop is None:
            training.train(config, tmp_path / name)
            return restore_variables(config, tmp_path / name)[0]
        with pytest.raises(KeyboardInterrupt):
            training.train(config, tmp_path / name)

    whole = run("whole")
    for stop in (12, 27):  # goes on where the second of three steps begins, and inside the third
        run("parts", stop)
    parts = run("parts")
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), whole, parts))

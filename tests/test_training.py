import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_sets import write_csv, write_pts

from jaxlm import systems, training
from jaxlm.commands import evaluate
from jaxlm.support import files, program
from jaxlm.support.errors import NonFiniteError
from jaxlm.training import train
from jaxlm.workdir import checkpoints, config_file, restore

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "configs"))


def make_config(tmp_path: Path, **options):
    import ldeq_faces68

    config = ldeq_faces68.get_config("smoke")
    write_csv(tmp_path / "data" / "ytf68", 12)
    write_csv(tmp_path / "data" / "aflw68", 6)
    write_pts(tmp_path / "data" / "300w" / "lfpw" / "trainset", 30)
    config.data.root, config.data.cache = str(tmp_path / "data"), str(tmp_path / "cache")
    config.image_size = 32
    config.eval.sets = ("300w:heldout",)
    config.eval.batch_size = 8
    config.train.num_steps = 4
    config.train.checkpoint_every = 2
    config.update_from_flattened_dict(options)
    return config


def lines(workdir, kind):
    text = (workdir / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, text) if line["kind"] == kind]


def last_state(config, workdir):
    return restore.restore_variables(config, workdir, config.train.num_steps)[0]


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_train_logs_checkpoints_and_evaluates(tmp_path, capsys):
    config = make_config(tmp_path)
    metrics = train(config, tmp_path / "run")
    assert metrics["nme"] == metrics["300w_nme"] > 0
    assert [line["step"] for line in lines(tmp_path / "run", "train")] == [2, 4]
    assert {"loss", "nme", "grad_norm", "solver_steps", "samples_per_second"} <= set(
        lines(tmp_path / "run", "train")[0]
    )
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    written = evaluate.evaluate_workdir(config, tmp_path / "run")
    report = json.loads(written[0].read_text())
    assert written[0].name == "300w_heldout.json"
    assert {"nme", "fr10", "auc10", "crop", "normalizer", "subsets", "units"} <= set(report)
    assert report["crop"] == "gt" and report["normalizer"] == "inter_ocular"
    assert report["step"] == 4 and report["split"] == "heldout"
    assert sorted(p.name for p in written[0].parent.iterdir()) == [
        "300w_heldout.csv",
        "300w_heldout.json",
        "300w_heldout_ced.png",
        "300w_heldout_faces.png",
    ]
    assert "crop gt, normalizer inter_ocular" in capsys.readouterr().out


def test_the_best_and_the_last_two_checkpoints_are_kept(tmp_path):
    state, steps = {"w": jnp.arange(3.0)}, {1: 3.0, 2: 1.0, 3: float("nan"), 4: 2.0}
    saved = checkpoints.Checkpoints(tmp_path)
    for step, nme in list(steps.items())[:3]:
        saved.save(step, {"w": state["w"] * step}, {"next": step}, {"nme": nme})
    saved.close()
    saved = checkpoints.Checkpoints(tmp_path)  # resumed
    saved.save(4, {"w": state["w"] * 4}, {"next": 4}, {"nme": 2.0})
    saved.close()
    saved = checkpoints.Checkpoints(tmp_path, read_only=True)
    assert (saved.steps, saved.best_step, saved.last_step) == ([2, 3, 4], 2, 4)
    restored, iterator = saved.restore(2, state)
    np.testing.assert_array_equal(restored["w"], state["w"] * 2)
    assert iterator == {"next": 2}


def test_any_data_set_can_be_named(tmp_path):
    config = make_config(tmp_path)
    train(config, tmp_path / "run")
    write_csv(tmp_path / "others", 5)
    written = evaluate.evaluate_workdir(config, tmp_path / "run", data="own:train", root=str(tmp_path / "others"))
    assert json.loads(written[0].read_text())["count"] == 5


def test_interrupted_and_resumed_to_the_same_bits(tmp_path, monkeypatch):
    config = make_config(tmp_path)
    train(config, tmp_path / "whole")

    real = training.make_train_step

    def interrupting(system):
        step = real(system)
        calls = iter(range(100))

        def limited(*args):
            if next(calls) == 3:
                raise KeyboardInterrupt
            return step(*args)

        return limited

    monkeypatch.setattr(training, "make_train_step", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken")
    monkeypatch.setattr(training, "make_train_step", real)
    train(config, tmp_path / "broken")
    assert bits(last_state(config, tmp_path / "whole")) == bits(last_state(config, tmp_path / "broken"))
    drop = ("samples_per_second",)
    runs = [
        [{k: v for k, v in line.items() if k not in drop} for line in lines(tmp_path / name, "train")]
        for name in ("whole", "broken")
    ]
    assert runs[0] == runs[1]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["first step", "during a checkpoint", "later"])
def test_killed_and_resumed_to_the_same_bits(tmp_path, moment):
    """SIGKILL at several moments, also while a checkpoint is being written."""
    config = make_config(tmp_path)
    train(config, tmp_path / "whole")
    workdir = tmp_path / "killed"
    command = [sys.executable, str(ROOT / "train.py"), f"--config={ROOT}/configs/ldeq_faces68.py:smoke"]
    command += [f"--workdir={workdir}", f"--config.data.root={tmp_path}/data", f"--config.data.cache={tmp_path}/cache"]
    command += ["--config.image_size=32", "--config.eval.sets=('300w:heldout',)", "--config.eval.batch_size=8"]
    command += ["--config.train.num_steps=4", "--config.train.checkpoint_every=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def reached():
        folder = workdir / "checkpoints"
        if moment == "first step":
            return (workdir / "tensorboard").is_dir()
        if moment == "during a checkpoint":
            return folder.is_dir() and any("tmp" in p.name for p in folder.iterdir())
        return (folder / "2").is_dir()

    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 240
    while not reached() and process.poll() is None and time.time() < deadline:
        time.sleep(0.001)
    assert process.poll() is None and reached()  # alive, and caught where it should be
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert not [path for path in (workdir / "checkpoints").iterdir() if "tmp" in path.name]
    assert bits(last_state(config, tmp_path / "whole")) == bits(last_state(config, workdir))


def test_a_non_finite_loss_stops_the_run_and_names_the_checkpoint(tmp_path, monkeypatch):
    config = make_config(tmp_path, **{"train.num_steps": 6})
    real = training.make_train_step

    def poisoned(system):
        step = real(system)
        calls = iter(range(1, 100))

        def limited(*args):
            state, logs = step(*args)
            return state, {**logs, "loss": jnp.nan} if next(calls) == 4 else logs

        return limited

    monkeypatch.setattr(training, "make_train_step", poisoned)
    with pytest.raises(NonFiniteError, match=r"Step 4: the loss is nan .* last good checkpoint is step 2"):
        train(config, tmp_path / "run")
    assert checkpoints.Checkpoints(tmp_path / "run", read_only=True).last_step == 2


def test_eight_devices_give_the_loss_of_one(tmp_path):
    """The same batch on 1 and on 8 forced CPU devices: the same loss to 1e-5, implicit gradients included."""
    code = """
import sys, numpy as np, jax
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/configs"]
import quickstart
from jaxlm import systems, training
config = quickstart.get_config()
config.image_size, config.train.batch_size, config.gradient = 32, 8, "implicit"
config.model.preset = "nano"
config.train.num_steps = 100
system, mesh = systems.build(config), training.data_mesh()
state = training.replicate(jax.jit(system.init)(jax.random.key(0)), mesh)
rng = np.random.default_rng(0)
step, losses = training.make_train_step(system.train_step), []
for i in range(3):
    batch = {
        "image": rng.integers(0, 256, size=(8, 32, 32, 3), dtype=np.uint8),
        "landmarks": rng.uniform(4, 28, size=(8, 68, 2)).astype(np.float32),
        "mask": rng.random((8, 68)) < 0.9,
        "normalizer": np.full(8, 10, np.float32),
    }
    state, logs = step(state, training.shard_batch(batch, mesh), jax.random.key(i))
    losses.append(float(logs["loss"]))
print(jax.device_count(), *losses)
"""
    found = []
    for count in (1, 8):
        flags = os.environ["XLA_FLAGS"].replace("count=1", f"count={count}")
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        result = subprocess.run(
            [sys.executable, "-c", code, str(ROOT)], env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr[-2000:]
        devices, *losses = result.stdout.split()
        assert int(devices) == count
        found.append(np.array(losses, float))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
    assert found[0][2] != found[0][0]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Two hosts, each with its share of every batch, end with the parameters of one."""
    config = make_config(tmp_path)
    train(config, tmp_path / "one")
    command = [sys.executable, str(ROOT / "train.py"), f"--config={ROOT}/configs/ldeq_faces68.py:smoke"]
    command += [f"--workdir={tmp_path}/two", f"--config.data.root={tmp_path}/data", f"--config.data.cache={tmp_path}/c"]
    command += ["--config.image_size=32", "--config.eval.sets=('300w:heldout',)", "--config.eval.batch_size=8"]
    command += ["--config.train.num_steps=4", "--config.train.checkpoint_every=2"]
    command += ["--distributed", "--coordinator=localhost:47811", "--num_processes=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    output = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    both = [subprocess.Popen([*command, f"--process_id={i}"], env=environment, **output) for i in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(printed)[-3000:]
    one, two = (jax.tree.leaves(last_state(config, tmp_path / name)) for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
    assert [line["step"] for line in lines(tmp_path / "two", "train")] == [2, 4]


@pytest.mark.parametrize("gradient", ["implicit", "jacobian_free", "phantom", "unrolled", "explicit", "untied"])
def test_every_gradient_trains(tmp_path, gradient):
    import quickstart

    config = quickstart.get_config("smoke")
    config.image_size = 32
    config.jacobian_weight = 0.1 if gradient == "implicit" else 0.0
    config.model.explicit, config.model.untied = gradient in ("explicit", "untied"), gradient == "untied"
    config.gradient = "implicit" if config.model.explicit else gradient
    config.train.num_steps, config.optim.warmup_steps = 30, 1
    system = systems.build(config)
    state = jax.jit(system.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, size=(4, 32, 32, 3), dtype=np.uint8)),
        "landmarks": jnp.asarray(rng.uniform(4, 28, size=(4, 68, 2)), jnp.float32),
        "mask": jnp.ones((4, 68), bool),
        "normalizer": jnp.full(4, 10.0),
    }
    step, losses = jax.jit(system.train_step), []
    for i in range(20):
        state, logs = step(state, batch, jax.random.key(i))
        losses.append(float(logs["loss"]))
    assert np.isfinite(losses).all() and losses[-1] < 0.9 * losses[0]
    if gradient == "implicit":
        assert logs["adjoint_steps"] >= 1 and logs["jacobian"] > 0
        assert 0 <= logs["adjoint_converged"] <= 1 and 0 <= logs["converged"] <= 1
    if gradient == "untied":
        assert set(state.params["cell"]) == {f"stage_{i}" for i in range(config.solver.max_steps)}
    prediction = jax.jit(system.predict)(state.variables, batch["image"])
    assert prediction.landmarks.shape == (4, 68, 2) and ((prediction.score > 0) & (prediction.score <= 1)).all()


def test_predictions_of_a_mirror_image_are_mirrored(tmp_path):
    import quickstart

    config = quickstart.get_config("smoke")
    system = systems.build(config)
    state, predict = jax.jit(system.init)(jax.random.key(0)), jax.jit(system.predict)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, size=(2, 64, 64, 3)), jnp.float32)
    plain = predict(state.variables, images).landmarks
    mirrored = predict(state.variables, images[:, :, ::-1]).landmarks
    from jaxlm.schemes import FACES68

    np.testing.assert_allclose(
        mirrored[:, FACES68.flip] * jnp.array([[[-1.0, 1.0]]]) + jnp.array([[[63.0, 0.0]]]), plain, atol=1e-3
    )


class TestMistakes:
    """Each ends in one sentence."""

    def test_another_models_workdir(self, tmp_path):
        config = make_config(tmp_path)
        train(config, tmp_path / "run")
        config.model.preset = "small"
        with pytest.raises(ValueError, match=r"trained with another model: model\.preset differ"):
            train(config, tmp_path / "run")
        with pytest.raises(ValueError, match="is not a checkpoint of this model"):
            restore.restore_variables(config, tmp_path / "run")
        config.model.preset = "nano"
        with pytest.raises(ValueError, match="has no checkpoint 3: it has 2, 4"):
            restore.restore_variables(config, tmp_path / "run", 3)
        config.seed = 7
        with pytest.raises(ValueError, match="was begun with another seed"):
            train(config, tmp_path / "run")

    def test_a_wrong_root_claims_no_workdir(self, tmp_path):
        config = make_config(tmp_path)
        config.data.root = str(tmp_path / "nothing")
        with pytest.raises(ValueError, match="does not exist"):
            train(config, tmp_path / "run")
        assert not (tmp_path / "run" / "config.json").exists()

    def test_unknown_fields_of_sources_and_augmentation(self, tmp_path):
        config = make_config(tmp_path)
        with config.unlocked():
            config.data.sources.ytf68.on_error = "skip"
        with pytest.raises(ValueError, match="unknown fields on_error; own takes group, heldout, images"):
            train(config, tmp_path / "run")
        config = make_config(tmp_path)
        with config.unlocked():
            config.augment.blurr = 0.1
        with pytest.raises(ValueError, match="unknown fields blurr"):
            train(config, tmp_path / "run")

    def test_root_without_data(self, tmp_path):
        config = make_config(tmp_path)
        train(config, tmp_path / "run")
        with pytest.raises(ValueError, match="--root goes with --data"):
            evaluate.evaluate_workdir(config, tmp_path / "run", root="faces.csv")

    def test_no_workdir(self, tmp_path):
        with pytest.raises(ValueError, match=r"has no config\.json"):
            config_file.load_config(tmp_path)
        with pytest.raises(ValueError, match="has no checkpoints"):
            checkpoints.Checkpoints(tmp_path, read_only=True)

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("system", "ldqe", "no system 'ldqe'; choose one of awing, ldeq"),
            ("model.preset", "huge", "choose one of nano, tiny, slim, small, paper"),
            ("solver.name", "newton", "choose one of fixed_point_iteration"),
            ("loss.name", "l7", "choose one of mse"),
            ("optim.schedule", "warm", "choose constant, cosine or steps"),
            ("train.num_steps", 0, "must be at least 1"),
        ],
    )
    def test_a_config_field(self, tmp_path, field, value, message):
        with pytest.raises(ValueError, match=message):
            train(make_config(tmp_path, **{field: value}), tmp_path / "run")

    def test_an_unknown_key_on_the_command_line(self, tmp_path):
        command = [sys.executable, str(ROOT / "train.py"), f"--config={ROOT}/configs/quickstart.py"]
        command += [f"--workdir={tmp_path}/run", "--config.optim.lerning_rate=1"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode != 0 and "learning_rate" in result.stderr
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "run").exists()

    def test_a_full_disk(self, tmp_path, capsys):
        with pytest.raises(SystemExit) as stopped, program.one_sentence():
            raise OSError(28, "No space left on device", "runs/checkpoint")
        assert stopped.value.code == 2
        assert "The disk is full (runs/checkpoint)" in capsys.readouterr().err
        with pytest.raises(SystemExit), program.one_sentence():
            raise ValueError("RESOURCE_EXHAUSTED: Error writing local file: Failed writing\nSource locations: ...")
        assert capsys.readouterr().err.count("\n") == 1

    def test_an_unfinished_checkpoint_is_removed(self, tmp_path):
        saved = checkpoints.Checkpoints(tmp_path)
        (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
        saved.close()
        assert not list((tmp_path / "checkpoints").iterdir())

    def test_half_a_file_never_replaces_a_whole_one(self, tmp_path):
        path = tmp_path / "config.json"
        files.write_atomically(path, "whole")

        def full(file):
            file.write(b"an")
            raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space"):
            files.write_bytes_atomically(path, full)
        assert path.read_text() == "whole" and [p.name for p in tmp_path.iterdir()] == ["config.json"]

"""What is written stays whole: several writers, two trainings, damaged checkpoints, signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from test_training import bits, last_state, make_config

from jaxlm import systems, training
from jaxlm.support import files, pictures, program
from jaxlm.support.signals import Signals, Stopped
from jaxlm.training import train
from jaxlm.workdir import checkpoints, restore
from jaxlm.workdir.lock import HOLDER, locked

WRITER = """
import sys
from pathlib import Path
from jaxlm.support.files import write_atomically
for number in range(300):
    write_atomically(Path(sys.argv[1]), sys.argv[2] * 20_000)
"""


def test_two_writers_of_one_file(tmp_path):
    """Every reader sees one of the two texts, whole, and neither writer fails."""
    path = tmp_path / "file.json"
    files.write_atomically(path, "a" * 20_000)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), letter]) for letter in "ab"]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        text = path.read_text()
        assert len(text) == 20_000 and text in ("a" * 20_000, "b" * 20_000)
        reads += 1
    assert [writer.wait() for writer in writers] == [0, 0] and reads > 20
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.npy"
    files.write_bytes_atomically(path, lambda file: np.save(file, np.arange(3)))

    def fail(file):
        file.write(b"half")
        raise RuntimeError("out of something")

    with pytest.raises(RuntimeError):
        files.write_bytes_atomically(path, fail)
    assert np.load(path).tolist() == [0, 1, 2] and [file.name for file in tmp_path.iterdir()] == ["a.npy"]
    pictures.write_image(tmp_path / "new" / "a.png", np.zeros((4, 4, 3), np.uint8))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.png"]
    umask = os.umask(0)
    os.umask(umask)
    assert (path.stat().st_mode & 0o777) == 0o666 & ~umask  # as any other file, not as a temporary one


def test_two_trainings_in_one_workdir(tmp_path):
    with locked(tmp_path / "run"):
        held = json.loads((tmp_path / "run" / HOLDER).read_text())
        assert held["process"] == os.getpid()
        message = rf"run is in use: process {os.getpid()} on .*, since .*, trains there\. Wait for it, or choose"
        with pytest.raises(ValueError, match=message), locked(tmp_path / "run"):
            raise AssertionError("locked twice")
        with locked(tmp_path / "another"):
            pass
    assert not (tmp_path / "run" / HOLDER).exists()
    with locked(tmp_path / "run"):
        pass


HOLD = """
import sys, time
from pathlib import Path
from jaxlm.workdir.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_training_is_stale(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"process {holder.pid} on"), locked(tmp_path):
            raise AssertionError("locked twice")
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / HOLDER).exists()
    for _ in range(50):  # the system releases it when the process is gone
        try:
            with locked(tmp_path):
                break
        except ValueError:
            time.sleep(0.1)
    else:
        raise AssertionError("the lock stayed")


def test_training_holds_the_lock(tmp_path, monkeypatch):
    import quickstart

    from jaxlm import training

    config = quickstart.get_config("smoke")
    monkeypatch.setattr(training, "_train", lambda config, workdir, *others: {"held": (workdir / HOLDER).exists()})
    assert training.train(config, tmp_path / "run") == {"held": True}
    with locked(tmp_path / "run"), pytest.raises(ValueError, match="is in use"):
        training.train(config, tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="choose another --workdir"):
        training.train(config, tmp_path / "file" / "run")


@pytest.mark.parametrize("which", [4, 6])
def test_damaged_metrics_do_not_stop_a_training(tmp_path, capsys, which):
    config = make_config(tmp_path, **{"train.num_steps": 6})
    train(config, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / str(which) / "metrics" / "metrics").write_text('{"nm')
    longer = make_config(tmp_path, **{"train.num_steps": 8})
    train(longer, tmp_path / "run")
    assert f"checkpoints/{which}/metrics/metrics is damaged" in capsys.readouterr().out
    assert checkpoints.Checkpoints(tmp_path / "run", read_only=True).last_step == 8


@pytest.mark.parametrize("damage", ["half a shard", "no shard", "metadata"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, capsys, damage):
    config = make_config(tmp_path, **{"train.num_steps": 6})
    train(config, tmp_path / "whole")
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "whole", broken)
    for step in checkpoints.Checkpoints(broken, read_only=True).steps:
        if step != 4:  # such as the best one, which is kept as well
            state = broken / "checkpoints" / str(step) / "state"
            shard = max((path for path in state.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
            if damage == "half a shard":
                shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
            elif damage == "no shard":
                shard.unlink()
            else:
                (state / "_METADATA").write_text("{")
    with pytest.raises(ValueError, match=r"checkpoints/6 is damaged \(.*\)\. There are .*4: name one with --step"):
        restore.restore_variables(config, broken)
    restore.restore_variables(config, broken, 4)
    train(config, broken)
    printed = capsys.readouterr().out
    assert "checkpoints/6 is damaged" in printed and "damaged, and the training goes on from step 4" in printed
    assert (broken / "damaged" / "6").is_dir()
    assert bits(last_state(config, tmp_path / "whole")) == bits(last_state(config, broken))


def signalled(monkeypatch, number):
    """Makes the third training step raise a signal."""
    real = training.make_train_step

    def signalling(system):
        step, calls = real(system), iter(range(1, 100))

        def limited(*args):
            if next(calls) == 3:
                signal.raise_signal(number)
            return step(*args)

        return limited

    monkeypatch.setattr(training, "make_train_step", signalling)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal_and_resumed_to_the_same_bits(tmp_path, monkeypatch, number):
    """The step that is under way is finished and saved, between two checkpoints."""
    config = make_config(tmp_path, **{"train.checkpoint_every": 4})
    train(config, tmp_path / "whole")
    handlers = [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        signalled(patch, number)
        message = rf"Stopped by {number.name} at step 3, which is saved; the same command goes on"
        with pytest.raises(Stopped, match=message) as stopped:
            train(config, tmp_path / "stopped")
    with pytest.raises(SystemExit) as ended, program.one_sentence():
        raise stopped.value
    assert ended.value.code == (75 if number == signal.SIGTERM else 130)
    assert [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert checkpoints.Checkpoints(tmp_path / "stopped", read_only=True).steps == [3]
    train(config, tmp_path / "stopped")
    assert bits(last_state(config, tmp_path / "whole")) == bits(last_state(config, tmp_path / "stopped"))


def test_a_signal_in_the_last_step_is_not_forgotten(tmp_path, monkeypatch):
    config = make_config(tmp_path, **{"train.num_steps": 3, "train.checkpoint_every": 3})
    signalled(monkeypatch, signal.SIGTERM)
    with pytest.raises(Stopped, match="finished and saved"):
        train(config, tmp_path / "run")
    assert checkpoints.Checkpoints(tmp_path / "run", read_only=True).steps == [3]


def test_a_second_interrupt_is_obeyed_at_once():
    signals = Signals()
    with pytest.raises(KeyboardInterrupt), signals.watched():
        signal.raise_signal(signal.SIGINT)
        assert signals.noted == signal.SIGINT
        signal.raise_signal(signal.SIGINT)


def test_a_round_is_not_cut(tmp_path, monkeypatch):
    """A system whose rounds have 2 steps is stopped after step 4, not after step 3."""
    config, build = make_config(tmp_path, **{"train.num_steps": 6}), systems.build
    signalled(monkeypatch, signal.SIGTERM)
    monkeypatch.setattr(systems, "build", lambda config: build(config)._replace(round=2))
    with pytest.raises(Stopped, match="at step 4"):
        train(config, tmp_path / "run")

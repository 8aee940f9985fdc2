"""What is written stays whole when several processes write, and two trainings do not share a workdir."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxlm.support import files, pictures
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

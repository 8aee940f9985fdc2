"""Object storage, for which fsspec's `memory://` stands in."""

import contextlib
import json
import signal
import time
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest
import quickstart
from data_sets import face, write_pts

from jaxlm import __main__ as front_door
from jaxlm.data import sources
from jaxlm.support import storage
from jaxlm.support.remote import local_words
from jaxlm.support.storage import fetch, mirrored, under

MEMORY = fsspec.filesystem("memory")


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_CACHE", str(tmp_path / "fetched"))
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path))
    yield
    MEMORY.store.clear()
    MEMORY.pseudo_dirs[:] = [""]


def put(name: str, text: str) -> None:
    MEMORY.pipe_file(f"/bucket/{name}", text.encode())


def names() -> set[str]:
    return {name.removeprefix("/bucket/") for name in MEMORY.find("/bucket")}


class TestFetch:
    def test_a_file_and_a_folder(self):
        put("data/a.txt", "a")
        put("data/deep/b.txt", "b")
        assert fetch("memory://bucket/data/a.txt").read_text() == "a"
        folder = fetch("memory://bucket/data/")
        assert folder.name == "data" and (folder / "deep" / "b.txt").read_text() == "b"
        assert under("memory://bucket/data", "deep/b.txt").read_text() == "b"

    def test_only_what_has_changed_is_copied_again(self, monkeypatch):
        put("data/a.txt", "a")
        put("data/b.txt", "b")
        folder = fetch("memory://bucket/data")
        copied, copy = [], storage._copy_in
        monkeypatch.setattr(storage, "_copy_in", lambda place, file: (copied.append(file.name), copy(place, file)))
        put("data/b.txt", "c")  # of the same size
        put("data/d.txt", "d")
        fetch("memory://bucket/data")
        assert sorted(copied) == ["b.txt", "d.txt"] and (folder / "b.txt").read_text() == "c"
        MEMORY.rm("/bucket/data/a.txt")
        fetch("memory://bucket/data")
        assert {path.name for path in folder.iterdir()} == {"b.txt", "d.txt"}

    def test_other_paths_stay_as_they_are(self, tmp_path):
        assert fetch(str(tmp_path)) == tmp_path and under(str(tmp_path), "/data") == fetch("/data")
        assert under("memory://bucket", "/data") == fetch("/data")

    @pytest.mark.parametrize("name", ["../evil.txt", "a/../../../evil.txt", "a//b", "a\\..\\b"])
    def test_names_that_lead_out_of_the_folder_are_refused(self, name, monkeypatch):
        put("data/a.txt", "a")
        found = {f"/bucket/data/{name}": {"size": 1, "type": "file"}}
        monkeypatch.setattr(type(MEMORY), "find", lambda self, path, detail: found)
        with pytest.raises(ValueError, match="which is no path of a file below it"):
            fetch("memory://bucket/data")

    def test_what_consoles_write_for_a_folder_is_no_file(self, monkeypatch):
        put("data/a.txt", "a")
        marked = {f"/bucket/data{end}": {"size": 0, "type": "file"} for end in ("/", "/deep/")}
        found = {**marked, "/bucket/data/a.txt": {"size": 1, "type": "file", "created": 1}}
        monkeypatch.setattr(type(MEMORY), "find", lambda self, path, detail: found)
        assert [path.name for path in fetch("memory://bucket/data").iterdir()] == ["a.txt"]

    def test_a_fetch_that_was_broken_goes_on(self, monkeypatch):
        for name in "abc":
            put(f"data/{name}.txt", name)
        copied, copy = [], storage._copy_in

        def fail(place, file):
            if len(copied) == 2:
                raise OSError("no network")
            copied.append(file.name)
            copy(place, file)

        monkeypatch.setattr(storage, "_copy_in", fail)
        with pytest.raises(ValueError, match="no network"):
            fetch("memory://bucket/data")
        monkeypatch.setattr(storage, "_copy_in", lambda place, file: (copied.append(file.name), copy(place, file)))
        fetch("memory://bucket/data")
        assert sorted(copied) == ["a.txt", "b.txt", "c.txt"]

    def test_a_file_that_becomes_a_folder(self):
        put("data", "a")
        assert fetch("memory://bucket/data").read_text() == "a"
        MEMORY.rm("/bucket/data")
        put("data/b.txt", "b")
        assert (fetch(Path("memory://bucket/data")) / "b.txt").read_text() == "b"

    def test_what_cannot_be_read_is_named(self):
        with pytest.raises(ValueError, match="memory://bucket/none does not exist"):
            fetch("memory://bucket/none")
        with pytest.raises(ValueError, match="gs://bucket/a needs the package gcsfs: pip install gcsfs"):
            fetch("gs://bucket/a")


class TestMirror:
    def test_changes_are_written_back_and_found_again(self):
        with mirrored("memory://bucket/run") as folder:
            (folder / "checkpoints" / "1").mkdir(parents=True)
            (folder / "checkpoints" / "1" / "state").write_text("one")
            (folder / "log").write_text("1")
            (folder / ".log.123.partial").write_text("half")
        assert names() == {"run/checkpoints/1/state", "run/log", "run/.jaxlm_files.json"}
        with mirrored("memory://bucket/run") as folder:
            assert (folder / "checkpoints" / "1" / "state").read_text() == "one"
            (folder / "checkpoints" / "1" / "state").unlink()
            (folder / "log").write_text("12")
        assert names() == {"run/log", "run/.jaxlm_files.json"}
        assert MEMORY.cat_file("/bucket/run/log") == b"12"
        assert not folder.exists() and not folder.parent.exists()

    def test_it_is_written_meanwhile(self):
        with mirrored("memory://bucket/run", interval=0.05) as folder:
            (folder / "log").write_text("1")
            end = time.time() + 10
            while "run/log" not in names() and time.time() < end:
                time.sleep(0.02)
            assert "run/log" in names()

    def test_a_copy_that_was_interrupted_is_not_seen(self):
        with mirrored("memory://bucket/run") as folder:
            (folder / "1").write_text("whole")
        put("run/2", "ha")  # copied, and not yet in the list of complete files
        with mirrored("memory://bucket/run") as folder:
            assert [path.name for path in folder.iterdir()] == ["1"]
        assert not (fetch("memory://bucket/run") / "2").exists()

    def test_two_that_write_keep_each_others_files(self):
        with mirrored("memory://bucket/run") as folder:
            (folder / "log").write_text("1")
        with mirrored("memory://bucket/run") as one, mirrored("memory://bucket/run") as two:
            (one / "eval.json").write_text("{}")
            (two / "log").write_text("12")
        folder = fetch("memory://bucket/run")
        assert (folder / "eval.json").read_text() == "{}" and (folder / "log").read_text() == "12"

    def test_one_training_at_a_time(self):
        place = "memory://bucket/run"
        with mirrored(place, alone=True, interval=1) as folder:
            (folder / "log").write_text("1")
            with pytest.raises(ValueError, match=r"in use: process \d+ on .* trains there.* 3 seconds longer"):
                mirrored(place, alone=True, interval=1).__enter__()
            with mirrored(place):  # one that does not train
                pass
        assert "run/.jaxlm_in_use.json" not in names()
        held = {"id": "a", "host": "gone", "process": 1, "time": time.time() - 1000}
        put("run/.jaxlm_in_use.json", json.dumps(held))
        with mirrored(place, alone=True, interval=1) as folder:  # it was killed
            assert (folder / "log").read_text() == "1"

    def test_it_is_held_while_a_long_copy_lasts(self, monkeypatch):
        put("run/log", "1")
        copy = storage._copy_in
        monkeypatch.setattr(storage, "_copy_in", lambda place, file: (time.sleep(1.5), copy(place, file)))
        with mirrored("memory://bucket/run", alone=True, interval=0.4), pytest.raises(ValueError, match="in use"):
            mirrored("memory://bucket/run", alone=True, interval=0.4).__enter__()

    def test_a_training_whose_folder_was_taken_ends_and_writes_nothing(self, capsys):
        place, ended = mirrored("memory://bucket/run", alone=True, interval=0.2), []
        before = signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
        try:
            folder = place.__enter__()
            held = {"id": "another", "host": "there", "process": 1, "time": time.time() + 1000}
            put("run/.jaxlm_in_use.json", json.dumps(held))
            end = time.time() + 10
            while not ended and time.time() < end:
                time.sleep(0.02)
            (folder / "log").write_text("1")
            with pytest.raises(ValueError, match=r"was taken by another training.*kept in"):
                place.__exit__(None, None, None)
        finally:
            signal.signal(signal.SIGTERM, before)
        assert ended and "run/log" not in names() and "run/.jaxlm_in_use.json" in names()

    def test_a_place_that_cannot_be_read_is_released(self, monkeypatch):
        put("run/log", "1")

        def fail(place, file):
            raise OSError("no network")

        monkeypatch.setattr(storage, "_copy_in", fail)
        with pytest.raises(ValueError, match="no network"):
            mirrored("memory://bucket/run", alone=True, interval=1).__enter__()
        assert names() == {"run/log"}

    def test_names_that_only_look_like_temporary_ones(self):
        with mirrored("memory://bucket/run") as folder:
            for name in ("padlock.locked.png", "a.partial.png", ".lock", ".lock.json", ".a.1.partial.png"):
                (folder / name).write_text(name)
        assert names() == {"run/padlock.locked.png", "run/a.partial.png", "run/.jaxlm_files.json"}

    def test_what_cannot_be_written_is_kept(self, monkeypatch):
        def fail(place, content):
            raise OSError("no network")

        place = mirrored("memory://bucket/run")
        folder = place.__enter__()
        (folder / "log").write_text("1")
        monkeypatch.setattr(storage, "_write", fail)
        with pytest.raises(ValueError, match=r"cannot be read or written .*no network.*kept in") as error:
            place.__exit__(None, None, None)
        assert str(folder) in str(error.value) and (folder / "log").read_text() == "1"


def test_training_evaluation_and_prediction(tmp_path, monkeypatch):
    write_pts(tmp_path / "faces", 24)
    MEMORY.put(str(tmp_path / "faces"), "/bucket/data/faces", recursive=True)
    own = dict(mine=dict(builder="own", root="faces", train_split="train", weight=1.0, heldout=0.2))
    (tmp_path / "mine.py").write_text(
        "import quickstart\n\n\ndef get_config(variant=''):\n    config = quickstart.get_config('smoke')\n"
        f"    config.data.sources = {own!r}\n    config.eval.sets = ('mine:heldout',)\n    return config\n"
    )
    workdir = "--workdir=memory://bucket/run"
    words = [f"--config={tmp_path / 'mine.py'}", workdir, "--config.data.root=memory://bucket/data"]
    words.append(f"--config.data.cache={tmp_path / 'cache'}")
    front_door.main("train", [*words, "--config.train.num_steps=3"])
    assert "run/config.json" in names() and any(name.startswith("run/checkpoints/3/") for name in names())
    front_door.main("train", [*words, "--config.train.num_steps=6"])
    assert any(name.startswith("run/checkpoints/6/") for name in names())
    steps = [json.loads(line)["step"] for line in MEMORY.cat_file("/bucket/run/metrics.jsonl").splitlines()]
    assert sorted(set(steps))[-1] == 6 and steps.count(3) <= 2  # continued, not begun again
    front_door.main("eval", [workdir])
    assert json.loads(MEMORY.cat_file("/bucket/run/eval/mine_heldout.json"))["nme"] > 0
    image, points = face(3)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    MEMORY.put(str(tmp_path / "a.png"), "/bucket/a.png")
    left, top, right, bottom = np.concatenate([points.min(axis=0), points.max(axis=0)])
    put("boxes.csv", f"image,left,top,right,bottom\na.png,{left},{top},{right},{bottom}\n")
    front_door.main(
        "predict",
        ["memory://bucket/a.png", workdir, "--boxes", "memory://bucket/boxes.csv", "--out=memory://bucket/out"],
    )
    found = json.loads(MEMORY.cat_file("/bucket/out/predictions.json"))
    assert len(found["files"][0]["faces"]) == 1 and any(name.startswith("out/a") for name in names())
    front_door.main("contact-sheet", [*words[:1], *words[2:], "--out=memory://bucket/sheet.png"])
    assert MEMORY.cat_file("/bucket/sheet.png").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "words", [["--shard=1/2", "--out=memory://b/out"], ["--distributed", "--workdir=memory://b/run"]]
)
def test_several_machines_need_a_common_folder(words, capsys):
    with pytest.raises(SystemExit):
        front_door.main("train", words)
    assert "that all machines share; memory://b/" in capsys.readouterr().err


def test_words_become_local_paths():
    put("a.png", "a")
    put("run/config.json", "{}")
    put("b/config.json", "b")
    with contextlib.ExitStack() as stack:
        words = ["--config=mine.py", "memory://bucket/a.png", "--workdir", "memory://bucket/run"]
        words += ["memory://bucket/a.png", "--config.data.root=memory://bucket/data", "--boxes=b.csv"]
        words += ["--workdirs", "memory://bucket/run", "memory://bucket/b", "--models=memory://bucket/run,faces98"]
        _, first, _, workdir, second, *others = local_words("eval", words, stack)
        assert first == second and Path(first).read_text() == "a"
        (Path(workdir) / "log").write_text("1")
        assert others[:2] == words[5:7]
        assert [(Path(path) / "config.json").read_text() for path in others[3:5]] == ["{}", "b"]
        assert others[5].startswith("--models=/") and others[5].endswith("/run,faces98")
    assert "run/log" in names()
    with contextlib.ExitStack() as stack:
        (read,) = local_words("predict", ["--workdir=memory://bucket/run"], stack)
        assert (Path(read.partition("=")[2]) / "config.json").is_file()
        with pytest.raises(ValueError, match="memory://bucket/none does not exist"):
            local_words("eval", ["--workdir=memory://bucket/none"], stack)


def test_results_in_a_folder_with_a_dot(tmp_path):
    with contextlib.ExitStack() as stack:
        (out,) = local_words("predict", ["--out=memory://bucket/ldeq.v1"], stack)
        (Path(out.partition("=")[2]) / "a.txt").write_text("a")
    assert "ldeq.v1/a.txt" in names()


def test_another_kind_of_address_is_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        front_door.main("predict", ["a.png", "--out=https://example.com/out"])
    assert "https://example.com/out is on no storage that is known" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_cache_must_be_local():
    config = quickstart.get_config("smoke")
    config.data.cache = "memory://bucket/cache"
    with pytest.raises(ValueError, match=r"data\.cache must be a local folder"):
        sources.prepare_source(config, "rendered")

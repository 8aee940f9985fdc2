"""What docs/extending.md promises: a data set, a loss and a system of one's own, trained, evaluated and used."""

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import quickstart
from data_sets import face

from jaxlm import __main__ as front_door
from jaxlm import losses, systems
from jaxlm.commands import evaluate
from jaxlm.data import sources
from jaxlm.predict.model import shipped_folder
from jaxlm.predict.session import Predictor
from jaxlm.support import pictures
from jaxlm.training import train

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def extending(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import extending

    before = [dict(held) for held in (sources.BUILDERS, losses.LANDMARK_LOSSES, systems.SYSTEMS)]
    extending.register()
    yield extending
    for held, kept in zip((sources.BUILDERS, losses.LANDMARK_LOSSES, systems.SYSTEMS), before, strict=True):
        held.clear()
        held.update(kept)


def write_faces(root: Path, count: int) -> None:
    lines = []
    for number in range(count):
        image, points = face(number)
        pictures.write_image(root / f"{number}.png", image)
        lines.append(json.dumps({"image": f"{number}.png", "points": points.tolist()}))
    (root / "faces.jsonl").write_text("\n".join(lines) + "\n")


def test_all_three_together(extending, tmp_path):
    write_faces(tmp_path / "faces", 24)
    config = quickstart.get_config("smoke")
    config.system = "linear"
    config.model = {}
    config.loss = dict(on="landmarks", name="huber", options=dict(delta=0.02))
    config.data.root, config.data.cache = str(tmp_path), str(tmp_path / "cache")
    config.data.sources = dict(
        mine=dict(builder="json_lines", root="faces", train_split="train", weight=1.0, heldout=0.2)
    )
    config.eval.sets = ("mine:heldout",)
    config.eval.flip_average = False
    config.optim.update(dict(learning_rate=3e-3, ema=0.9))
    config.train.update(dict(num_steps=60, checkpoint_every=60, log_every=20, batch_size=8))
    train(config, tmp_path / "run")
    (path,) = evaluate.evaluate_workdir(config, tmp_path / "run")
    assert json.loads(path.read_text())["nme"] < 35  # all points in the middle of the crop are at 70
    image, points = face(3)
    (found,) = Predictor.load(tmp_path / "run", refine=0)(
        image, np.concatenate([points.min(axis=0), points.max(axis=0)])[None]
    )
    assert np.abs(found.landmarks - points).mean() < 12


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module that leaves a mark when it is imported, and a workdir whose config names it."""
    (tmp_path / "dl").mkdir()
    (tmp_path / "dl" / "__init__.py").write_text("")
    code = f"open({str(tmp_path / 'ran')!r}, 'w').close()\ndef build(config):\n    raise ValueError('built')\n"
    (tmp_path / "dl" / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(systems, "SYSTEMS", dict(systems.SYSTEMS))
    shutil.copytree(shipped_folder(), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "system": "dl.mine"}))
    yield tmp_path
    for name in ("dl", "dl.mine"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("command", ["predict", "eval", "export", "track", "compare", "train"])
def test_a_config_cannot_name_what_is_imported(own_module, capsys, command):
    pictures.write_image(own_module / "a.png", face(0)[0])
    words = {
        "predict": [str(own_module / "a.png"), f"--workdir={own_module}/model", f"--out={own_module}/out"],
        "track": [str(own_module / "a.mp4"), f"--workdir={own_module}/model", f"--out={own_module}/out"],
        "compare": [f"--workdirs={own_module}/model", f"--out={own_module}/out"],
        "train": ["--config=quickstart:smoke", "--config.system=dl.mine", f"--workdir={own_module}/run"],
    }.get(command, [f"--workdir={own_module}/model"])
    with pytest.raises(SystemExit):
        front_door.main(argv=[command, *words])
    error = capsys.readouterr().err
    assert "There is no system 'dl.mine'" in error or command == "eval", error  # which first looks for checkpoints
    assert not (own_module / "ran").exists() and "dl.mine" not in sys.modules


def test_a_caller_can_allow_it(own_module, capsys, monkeypatch):
    monkeypatch.chdir(own_module)
    pictures.write_image(own_module / "a.png", face(0)[0])
    with pytest.raises(SystemExit):
        front_door.main(
            argv=["--system=dl.mine", "predict", str(own_module / "a.png"), f"--workdir={own_module}/model"]
        )
    assert "built" in capsys.readouterr().err and (own_module / "ran").exists()


def test_an_installed_package_can_name_it(own_module, monkeypatch):
    point = importlib.metadata.EntryPoint("mine", "dl.mine", systems.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] * (group == systems.ENTRY_POINTS))
    config = quickstart.get_config("smoke")
    config.system = "mine"
    with pytest.raises(ValueError, match="built"):
        systems.build(config)


def test_mistakes_in_the_data_are_named(extending, tmp_path):
    write_faces(tmp_path / "faces", 3)
    with (tmp_path / "faces" / "faces.jsonl").open("a") as file:
        file.write('{"image": "3.png"}\n')
    builder = extending.JsonLines(tmp_path / "faces", tmp_path / "cache", scheme="faces68")
    with pytest.raises(ValueError, match=r"faces\.jsonl, line 4"):
        builder.download_and_prepare()


def test_the_page_shows_what_is_tested():
    page = (DOCS / "extending.md").read_text()
    for name in ("JsonLines", "huber", "build", "register", "docs/extending.py", "tests/test_extending.py"):
        assert name in page

"""Shares of a list that several machines work on, and their joined results."""

import dataclasses
import json
import types

import cv2
import numpy as np
import pytest
import test_predict
from data_sets import write_csv
from test_params_data import records, small_config

from jaxlm.commands import fit, label_videos, predict
from jaxlm.data import face_parameters
from jaxlm.data.sets.own import OwnData
from jaxlm.predict.inputs import find_inputs
from jaxlm.predict.predictor import Predictor
from jaxlm.support.shards import ALL, Shard, parse_shard, write_part


def test_shares_are_a_partition():
    items = list(range(11))
    shares = [parse_shard(f"{number}/4").of(items) for number in range(1, 5)]
    assert sorted(item for share in shares for item in share) == items
    assert {len(share) for share in shares} == {2, 3} and shares[1] == [1, 5, 9]
    assert parse_shard(None) == ALL and ALL.of(items) == items
    assert Shard(3, 3).of([1, 2]) == []


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "-1/2", "1/0", ""])
def test_a_shard_that_does_not_exist(text):
    with pytest.raises(ValueError, match="must look like 2/8, the second of eight"):
        parse_shard(text)


def joined(parts):
    return [item for part in parts for item in part]


def test_the_last_share_joins_the_parts(tmp_path, capsys):
    path, shards = tmp_path / "all.json", [Shard(number, 3) for number in (2, 3, 1)]
    results = [write_part(path, [shard.number], shard, joined) for shard in shards]
    assert results == [None, None, [1, 2, 3]] and json.loads(path.read_text()) == [1, 2, 3]
    assert "2 of 3 shards are missing" in capsys.readouterr().out
    assert write_part(path, [7], shards[0], joined) == [1, 7, 3]  # a repeated share


def test_parts_of_another_run_are_missing(tmp_path):
    path = tmp_path / "all.json"
    for number in (1, 2):
        write_part(path, [number], Shard(number, 2), joined, run=["a model", "a.png"])
    assert write_part(path, [5], Shard(2, 2), joined, run=["another model", "a.png"]) is None
    assert json.loads(path.read_text()) == [1, 2]
    assert write_part(path, [4], Shard(1, 2), joined, run=["another model", "a.png"]) == [4, 5]


def test_an_interrupted_share_is_not_complete(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), test_predict.picture())
    model, _ = test_predict.finder()
    monkeypatch.setattr(predict.Predictor, "load", lambda *others, **options: Predictor(model))
    options = predict.Options((str(tmp_path / "a.png"),), out=str(tmp_path / "out"), detector="whole")

    def interrupted(*others):
        raise KeyboardInterrupt

    monkeypatch.setattr(predict.Session, "pictures", interrupted)
    for shard, written in (("1/2", set()), (None, {"predictions.json", "predictions.csv"})):
        with pytest.raises(KeyboardInterrupt):
            predict.main(dataclasses.replace(options, shard=shard))
        assert {path.name for path in (tmp_path / "out").iterdir()} == written


def test_predictions_of_shares_are_those_of_one_machine(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        cv2.imwrite(str(folder / f"{number}.png"), test_predict.picture(spot=np.array([20.0 + 3 * number, 30.0])))
    (folder / "2_broken.jpg").write_text("not a picture")
    inputs = find_inputs([str(folder)])
    order = [str(path.resolve()) for path, _ in inputs.pictures]
    for name, shards in (("one", [ALL]), ("many", [Shard(3, 3), Shard(1, 3), Shard(2, 3)])):
        for shard in shards:
            session = test_predict.TestProgram().session(tmp_path / name, overlays=False)
            session.pictures(shard.of(inputs.pictures), None, batch_size=2)
            session.write("finder", shard, order)
    one, many = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("one", "many"))
    assert sorted(one["files"], key=lambda entry: entry["file"]) == many["files"] and len(many["files"]) == 6
    tables = [(tmp_path / name / "predictions.csv").read_text() for name in ("one", "many")]
    assert tables[0] == tables[1] and tables[0].count("\n") == 6
    assert {path.name for path in (tmp_path / "many").glob("*.pts")} == {f"{n}_0.pts" for n in range(5)}


def test_fits_of_shares_are_those_of_one_machine(tmp_path, capsys):
    write_csv(tmp_path / "own", 7)
    config = small_config(tmp_path, labels="fitted")
    fits = []
    for name, shards in (("one", []), ("many", [Shard(2, 2), Shard(1, 2)])):
        builder = OwnData(tmp_path / "own", tmp_path / name, scheme="faces68")
        source = records(builder, "train")
        finished = [face_parameters.fit_part(config, builder, source, "train", shard) for shard in shards]
        assert finished == [False, True][: len(shards)]
        capsys.readouterr()
        fits.append(face_parameters.labels_of(config, builder, source, "train"))
        assert ("fitting" in capsys.readouterr().out) == (name == "one")
    for one, many in zip(*fits, strict=True):
        np.testing.assert_allclose(one, many, rtol=1e-5, atol=1e-5)


def test_a_share_without_faces_and_a_source_that_another_share_finishes(tmp_path, monkeypatch):
    write_csv(tmp_path / "own", 2)
    config = small_config(tmp_path, labels="fitted")
    builder = OwnData(tmp_path / "own", tmp_path / "cache", scheme="faces68")
    source = records(builder, "train")
    finished = [face_parameters.fit_part(config, builder, source, "train", Shard(n, 3)) for n in (3, 1, 2)]
    assert finished == [False, False, True]
    assert len(face_parameters.labels_of(config, builder, source, "train").params) == 2
    config.morphable.labels = "guessed"
    with pytest.raises(ValueError, match="got 'guessed'"):
        face_parameters.fit_part(config, builder, source, "train", Shard(1, 3))
    # The other share finishes the first source while this one is at the second.
    answers = iter([False, True, True, True])
    monkeypatch.setattr(fit, "fit_part", lambda *others: next(answers))
    opened = types.SimpleNamespace(split="train", records=source)
    monkeypatch.setattr(fit.sources, "open_source", lambda *others: opened)
    monkeypatch.setattr(fit.sources, "prepare_source", lambda *others: builder)

    def read(*others):
        raise RuntimeError("the report")

    monkeypatch.setattr(fit, "labels_of", read)
    config.data.sources = {name: {"train_split": "train", "weight": 1.0} for name in "ab"}
    with pytest.raises(RuntimeError, match="the report"):
        fit.run(config, tmp_path / "out", Shard(1, 2))


def test_videos_are_ranked_when_all_shares_are_labelled(tmp_path, monkeypatch):
    """The lists of hard and easy videos need every share's variances."""
    difficulty = {"a": 1.0, "b": 4.0, "c": 2.0, "d": 3.0}
    labels = label_videos.Labels(np.zeros((1, 2, 2)), np.zeros((1, 4)), np.zeros((1, 2)))
    for name in difficulty:
        (tmp_path / f"{name}.mp4").write_bytes(b"")

    class Models:
        def __init__(self, workdirs):
            self.names = list(workdirs)

    seen = []
    monkeypatch.setattr(label_videos, "Ensemble", Models)
    monkeypatch.setattr(label_videos, "VideoFile", lambda path: seen.append(path.stem) or path.stem)
    monkeypatch.setattr(label_videos, "label_video", lambda ensemble, file, rules: labels)
    monkeypatch.setattr(label_videos, "difficulty", lambda labels: difficulty[seen[-1]])
    out = tmp_path / "out"
    for number in (1, 2):
        assert not (out / "hard_video_IDs.txt").exists()
        videos = tuple(str(tmp_path / f"{name}.mp4") for name in difficulty)
        label_videos.main(label_videos.Options(videos, ("x",), str(out), shard=f"{number}/2"))
    assert seen == ["a", "c", "b", "d"]
    assert (out / "hard_video_IDs.txt").read_text() == "b\n" and (out / "easy_video_IDs.txt").read_text() == "a\n"

"""Landmark schemes of one's own: read, refused, trained, and carried by what was trained."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest
import quickstart
from data_sets import face

from jaxlm import __main__ as front_door
from jaxlm import schemes
from jaxlm.commands import evaluate
from jaxlm.predict.model import load_model, shipped_folder
from jaxlm.predict.predictor import Predictor
from jaxlm.scheme_files import read_scheme
from jaxlm.schemes import Line, get_scheme, normalizer, normalizers_of
from jaxlm.training import train

NAMES = ["left_eye", "right_eye", "nose", "left_mouth", "right_mouth"]
CONTENT = {
    "name": "five",
    "landmarks": NAMES,
    "mirror": [["left_eye", "right_eye"], [3, 4]],
    "lines": {"mouth": ["left_mouth", "right_mouth"], "all": {"points": [0, 1, 4, 3], "closed": True}},
    "groups": {"eyes": ["left_eye", "right_eye"], "below": ["nose", "left_mouth", "right_mouth"]},
    "normalizers": {"inter_ocular": ["left_eye", "right_eye"], "inter_pupil": [[0], [1]]},
}
POINTS = [36, 45, 30, 48, 54]  # of the 68


def write(folder, **changes):
    content = {key: value for key, value in {**CONTENT, **changes}.items() if value is not None}
    (folder / "five.json").write_text(json.dumps(content))
    return folder / "five.json"


def test_a_file_is_a_scheme(tmp_path):
    scheme = get_scheme(str(write(tmp_path)))
    assert (scheme.name, scheme.num_landmarks, scheme.names) == ("five", 5, tuple(NAMES))
    assert scheme.flip.tolist() == [1, 0, 2, 4, 3]
    assert scheme.groups == {"eyes": (0, 1), "below": (2, 3, 4)}
    assert scheme.lines[1] == Line("all", (0, 1, 4, 3), closed=True)
    assert scheme.segments.tolist() == [[3, 4], [0, 1], [1, 4], [4, 3], [3, 0]]
    points = np.array([[0, 0], [3, 4], [1, 2], [0, 5], [3, 9.0]])
    assert normalizer("inter_ocular", scheme, points, np.ones(5)) == 5
    assert normalizer("inter_pupil", scheme, points, np.ones(5)) == 5
    assert get_scheme(read_scheme(tmp_path / "five.json")) == scheme


def test_name_and_landmarks_are_enough(tmp_path):
    scheme = get_scheme(str(write(tmp_path, mirror=None, lines=None, groups=None, normalizers=None)))
    assert scheme.groups == {"all": (0, 1, 2, 3, 4)} and scheme.segments.shape == (0, 2)
    assert normalizers_of(scheme) == ("box", "points_box", "diagonal")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "faces68"}, "no scheme of the package has, got 'faces68'"),
        ({"name": "../five"}, "name must be a word"),
        ({"landmarks": None}, "landmarks must be a list of names"),
        ({"landmarks": ["a", "b", "a"]}, "landmarks has 'a' twice"),
        ({"flip": []}, "no field 'flip'; choose from name, landmarks, mirror"),
        ({"mirror": [["left_eye", "left_ear"]]}, "mirror has 'left_ear', which is neither"),
        ({"mirror": [[0, 1], [1, 2]]}, "mirror has 'right_eye' in two pairs"),
        ({"mirror": [[0, 1, 2]]}, "mirror must be two landmarks, got 3"),
        ({"mirror": [None]}, "mirror must be a list of landmarks"),
        ({"lines": {"mouth": [0]}}, "lines.mouth must have at least two"),
        ({"lines": {"mouth": [0, 9]}}, "lines.mouth has 9"),
        ({"lines": {"mouth": {"points": [0, 1], "close": True}}}, "lines.mouth must be a list"),
        ({"lines": [0, 1]}, "lines must be an object"),
        ({"groups": {"eyes": "left_eye"}}, "groups.eyes must be a list"),
        ({"groups": {"eyes": [True]}}, "groups.eyes has True"),
        ({"normalizers": {"eyes": [0, 1]}}, "normalizers has no 'eyes'; choose from inter_ocular"),
        ({"normalizers": {"inter_pupil": [0, 1]}}, "normalizers.inter_pupil must be a list"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(tmp_path, changes, words):
    path = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=words) as error:
        get_scheme(str(path))
    assert str(error.value).startswith(f"{path}: ")


def test_a_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.json does not exist"):
        get_scheme(str(tmp_path / "none.json"))
    (tmp_path / "half.json").write_text('{"name": ')
    with pytest.raises(ValueError, match=r"half\.json cannot be read as JSON"):
        get_scheme(str(tmp_path / "half.json"))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"deep\.json cannot be read as JSON"):
        get_scheme(str(tmp_path / "deep.json"))
    with pytest.raises(ValueError, match="choose one of faces98"):
        schemes.self_contained("faces69")


def test_a_models_config_does_not_name_files(tmp_path):
    shutil.copytree(shipped_folder(), tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    content = json.loads(path.read_text())
    for scheme in (str(write(tmp_path)), ["faces68"], 68):
        path.write_text(json.dumps({**content, "scheme": scheme}))
        with pytest.raises(ValueError, match=r"config\.json cannot be used \(its scheme is"):
            load_model(tmp_path / "model")


def write_table(folder, count: int):
    folder.mkdir()
    with (folder / "faces.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *[f"{axis}{i}" for i in range(5) for axis in "xy"]])
        for number in range(count):
            image, points = face(number)
            cv2.imwrite(str(folder / f"{number}.png"), image)
            writer.writerow([f"{number}.png", *points[POINTS].ravel()])
    return folder / "faces.csv"


def test_it_is_trained_and_travels_with_the_model(tmp_path):
    table, scheme = write_table(tmp_path / "faces", 24), write(tmp_path)
    config = quickstart.get_config("smoke")
    config.scheme, config.image_size = str(scheme), 64
    config.data.root, config.data.cache = str(tmp_path), str(tmp_path / "cache")
    config.data.sources = dict(
        mine=dict(builder="own", root="faces/faces.csv", train_split="train", weight=1.0, heldout=0.2)
    )
    config.eval.sets = ("mine:heldout",)
    train(config, tmp_path / "run")
    (path,) = evaluate.evaluate_workdir(config, tmp_path / "run")
    assert set(json.loads(path.read_text())["parts"]) == {"eyes", "below"}
    scheme.unlink()
    words = [f"--workdir={tmp_path / 'run'}", "--flip-average", f"--out={tmp_path / 'exported'}"]
    front_door.main("export", words)
    described = json.loads((tmp_path / "exported" / "parameters.json").read_text())
    assert described["scheme"] == "five" and described["landmarks"] == NAMES
    image, points = face(3)
    box = np.concatenate([points.min(axis=0), points.max(axis=0)])[None]
    ours, theirs = (Predictor.load(tmp_path / name, refine=0)(image, box)[0] for name in ("run", "exported"))
    assert ours.landmarks.shape == (5, 2) and "pose" not in ours.to_dict()
    np.testing.assert_allclose(ours.landmarks, theirs.landmarks, atol=1e-3)
    (tmp_path / "boxes.csv").write_text(f"image,left,top,right,bottom\n3.png,{','.join(map(str, box[0]))}\n")
    words = [str(table.parent / "3.png"), f"--workdir={tmp_path / 'exported'}", f"--boxes={tmp_path / 'boxes.csv'}"]
    front_door.main("predict", [*words, f"--out={tmp_path / 'out'}"])
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["scheme"] == "five"

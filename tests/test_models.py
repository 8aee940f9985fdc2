import json

import numpy as np
import pytest

from jaxlm.commands import evaluate, export, models, options, predict
from jaxlm.config import load_config_file
from jaxlm.predict.model import SHIPPED, load_model, shipped_folder, shipped_models
from jaxlm.predict.predictor import Predictor
from jaxlm.schemes import get_scheme
from jaxlm.support.pictures import write_image
from jaxlm.training import train


@pytest.mark.parametrize("name", shipped_models())
def test_a_model_of_the_package_is_small_and_loads_by_its_name(name):
    folder = shipped_folder(name)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 5e6
    model = load_model(name)
    assert name in model.name and name == model.config.scheme
    picture, box = np.full((128, 128, 3), 90, np.uint8), np.array([[20.0, 20.0, 100.0, 100.0]])
    face = Predictor(model, refine=0)(picture, box)
    assert model.calibration is None or face[0].probability < 0.1  # a grey picture
    assert face[0].landmarks.shape == (get_scheme(model.config.scheme).num_landmarks, 2)


def test_the_default_comes_first_and_a_folder_of_the_same_name_wins(tmp_path, monkeypatch):
    assert shipped_models()[0] == SHIPPED
    monkeypatch.chdir(tmp_path)
    (tmp_path / SHIPPED).mkdir()
    with pytest.raises(ValueError, match=r"config\.json"):
        load_model(SHIPPED)


def test_model_names_a_model_of_the_package_even_beside_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / SHIPPED).mkdir()
    write_image(tmp_path / "a.png", np.full((80, 80, 3), 90, np.uint8))
    options = predict.Options(inputs=("a.png",), model=SHIPPED, detector="whole", overlays=False)
    session = predict.main(options)
    assert len(session.entries[0]["faces"][0]["landmarks"]) == 68
    assert SHIPPED in json.loads((tmp_path / "predicted" / "predictions.json").read_text())["model"]


def test_configs_of_the_package_name_no_place_of_a_machine():
    for name in shipped_models():
        text = (shipped_folder(name) / "config.json").read_text()
        assert '"/' not in text and all(
            not source.get("ict") for source in json.loads(text)["data"]["sources"].values()
        )


def test_the_table_has_a_line_for_each_model(capsys):
    rows = models.main(models.Options())
    printed = capsys.readouterr().out
    for row in rows:
        assert row["name"] in printed and f"{row['lfpw']:.2f}" in printed
        assert json.loads((shipped_folder(row["name"]) / "card.json").read_text())["landmarks"] == row["landmarks"]


def test_every_form_is_evaluated(tmp_path, monkeypatch):
    """One network as workdir, exported parameters and graph has the same error, to the graph's tolerance."""
    config = load_config_file("quickstart:smoke")
    config.data.cache, config.train.num_steps = str(tmp_path / "cache"), 2
    train(config, tmp_path / "run")
    run, out = str(tmp_path / "run"), str(tmp_path / "out")
    export.main(export.Options(workdir=run, out=out, format=("orbax", "stablehlo"), flip_average=True))
    nme = []
    for model, out in (("run", None), ("out", None), ("out/model.stablehlo", "results")):
        words = [f"--workdir={tmp_path / model}", "--data=rendered:test", *([f"--out={tmp_path / out}"] if out else [])]
        (path,) = evaluate.main(options.parse(evaluate, "eval", words))
        nme.append(json.loads(path.read_text())["nme"])
    with pytest.raises(ValueError, match="has no checkpoint best"):
        load_model(tmp_path / "out" / "model.stablehlo", step="best")
    with pytest.raises(ValueError, match="is no folder to write results into"):
        evaluate.evaluate_workdir(load_model().config, shipped_folder(), data="rendered:test")
    assert (tmp_path / "out" / "eval").is_dir() and (tmp_path / "results").is_dir()
    np.testing.assert_allclose(nme, nme[0], atol=0.02)
    with pytest.raises(ValueError, match=r"model\.stablehlo is no folder .* --out=FOLDER"):
        evaluate.main(options.parse(evaluate, "eval", [f"--workdir={tmp_path}/out/model.stablehlo"]))
    with pytest.raises(ValueError, match="graph of single pictures"):
        words = [f"--workdir={tmp_path}/out/model.stablehlo", "--data=rendered_videos", f"--out={tmp_path}/results"]
        evaluate.main(options.parse(evaluate, "eval", words))


def test_mistakes_are_one_sentence():
    with pytest.raises(ValueError, match="no model 'faces5'; choose one of faces68"):
        predict.main(predict.Options(inputs=("a.png",), model="faces5"))
    with pytest.raises(ValueError, match="either a --model of the package or a --workdir"):
        predict.main(predict.Options(inputs=("a.png",), model=SHIPPED, workdir="runs/a"))
    with pytest.raises(
        ValueError, match=r"does not exist; name a workdir .* or one of the package's own models: faces68"
    ):
        load_model("nothing/here")

import json

import numpy as np
import pytest

from jaxlm.commands import models, predict
from jaxlm.predict.model import SHIPPED, load_model, shipped_folder, shipped_models
from jaxlm.predict.predictor import Predictor


@pytest.mark.parametrize("name", shipped_models())
def test_a_model_of_the_package_is_small_and_loads_by_its_name(name):
    folder = shipped_folder(name)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 5e6
    model = load_model(name)
    assert model.config.scheme == name and name in model.name
    face = Predictor(model, detector=lambda image: np.array([[20.0, 20.0, 100.0, 100.0]]), refine=0)(
        np.full((128, 128, 3), 90, np.uint8)
    )
    assert face[0].landmarks.shape == (int(name.removeprefix("faces")), 2)


def test_the_default_comes_first_and_a_folder_of_the_same_name_wins(tmp_path, monkeypatch):
    assert shipped_models()[0] == SHIPPED
    monkeypatch.chdir(tmp_path)
    (tmp_path / SHIPPED).mkdir()
    with pytest.raises(ValueError, match=r"config\.json"):
        load_model(SHIPPED)


def test_the_table_has_a_line_for_each_model(capsys):
    rows = models.main(models.Options())
    printed = capsys.readouterr().out
    for row in rows:
        assert row["name"] in printed and f"{row['lfpw']:.2f}" in printed
        assert json.loads((shipped_folder(row["name"]) / "card.json").read_text())["landmarks"] == row["landmarks"]


def test_mistakes_are_one_sentence():
    with pytest.raises(ValueError, match="no model 'faces5'; choose one of faces68"):
        predict.main(predict.Options(inputs=["a.png"], model="faces5"))
    with pytest.raises(ValueError, match="either a --model of the package or a --workdir"):
        predict.main(predict.Options(inputs=["a.png"], model=SHIPPED, workdir="runs/a"))
    with pytest.raises(
        ValueError, match=r"does not exist; name a workdir .* or one of the package's own models: faces68"
    ):
        load_model("nothing/here")

import json

import awing_300w
import awing_cofw
import awing_faces68
import awing_lsp
import awing_rendered
import awing_wflw
import ldeq_faces68
import numpy as np
import pytest
import reinit_300w
import tddfa_rendered
from data_sets import write_pts
from ml_collections import ConfigDict

from jaxlm import systems
from jaxlm.commands import ablation, choose
from jaxlm.commands.ablation import TABLES
from jaxlm.support.errors import NonFiniteError
from jaxlm.systems.tables import apply_row
from jaxlm.workdir import config_file


def tiny(config, root, cache):
    config.image_size = 32
    config.model.update(dict(stacks=1, features=16, depth=1, boundary_coordinates=False))
    config.optim.warmup_steps = 1
    config.train.update(dict(num_steps=2, batch_size=4, log_every=1, checkpoint_every=2))
    config.data.root, config.data.cache = str(root), str(cache)
    return config


def few_pictures(folder):
    write_pts(folder / "data" / "300w" / "lfpw" / "trainset", 30)
    config = tiny(awing_faces68.get_config("smoke"), folder / "data", folder / "cache")
    config.data.sources = ConfigDict({"300w": config.data.sources["300w"]})
    config.eval.sets = ("300w:heldout",)
    return config


def test_rows_are_trained_once_and_printed_beside_the_paper(tmp_path, capsys):
    config = few_pictures(tmp_path)
    results = ablation.run(config, "awing_7", tmp_path / "run", ["mse", "aw"], seeds=[0, 3])
    assert [results[row]["paper"] for row in ("mse", "aw")] == [5.39, 4.65]
    summary = json.loads((tmp_path / "run" / "table.json").read_text())
    seeds = summary["rows"]["aw"]["seeds"]
    assert summary["rows"]["aw"]["measured"] == (seeds["0"]["nme"] + seeds["3"]["nme"]) / 2 > 0
    assert seeds["0"]["nme"] != seeds["3"]["nme"] and len(seeds["0"]["of_each_face"]) == 3
    np.testing.assert_allclose(np.mean(seeds["0"]["of_each_face"]), seeds["0"]["nme"], atol=1e-3)
    mean, low, high = summary["rows"]["aw"]["difference"]
    assert low <= mean <= high and summary["rows"]["mse"]["difference"] is None
    np.testing.assert_allclose(mean, results["aw"]["measured"] - results["mse"]["measured"], atol=1e-3)
    written = (tmp_path / "run" / "table.md").read_text()
    assert "| AW | 4.65 | -13.7% |" in written and "300w:heldout" in written and "crop gt" in written
    assert written in capsys.readouterr().out
    for row, loss in (("mse", "mse"), ("aw", "adaptive_wing")):
        saved = json.loads((tmp_path / "run" / row / "seed0" / "config.json").read_text())
        assert saved["loss"]["name"] == loss and saved["seed"] == 0 and not saved["model"]["boundary"]
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*/*/checkpoints/*")}
    assert len(stamps) == 4
    again = ablation.run(config, "awing_7", tmp_path / "run", ["aw"])
    assert again == results and stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_rows_get_the_rate_with_the_smallest_error_on_the_validation_split(tmp_path, monkeypatch):
    config, run = few_pictures(tmp_path), tmp_path / "run"
    trained = {}

    def evaluate(config, workdir):
        trained[workdir] = config
        path = workdir / "report.json"
        path.write_text(json.dumps({"nme": {0.001: 7.0, 0.003: 5.5, 0.01: 6.0}[config.optim.learning_rate]}))
        return [path]

    with monkeypatch.context() as patch:
        patch.setattr(choose, "evaluate_workdir", evaluate)
        patch.setattr(choose, "train", lambda config, workdir: workdir.mkdir(parents=True))
        choices = choose.run(config, "awing_7", run, "optim.learning_rate", [1e-3, 3e-3, 1e-2], ["aw"])
    measured = {"0.001": 7.0, "0.003": 5.5, "0.01": 6.0}
    assert choices == {"aw": {"optim.learning_rate": {"value": 3e-3, "nme": measured, "steps": 2}}}
    assert {path.relative_to(run).as_posix() for path in trained} == {
        f"choose/optim.learning_rate/aw/{value}" for value in measured
    }
    for variant in trained.values():
        assert variant.eval.sets == ("300w:validation",) and variant.data.sources["300w"].validation == 0.1
        assert variant.loss.name == "adaptive_wing"
    ablation.run(config, "awing_7", run, ["aw"])
    saved = json.loads((run / "aw" / "seed0" / "config.json").read_text())
    assert saved["optim"]["learning_rate"] == 3e-3 and saved["data"]["sources"]["300w"]["validation"] == 0
    assert saved["eval"]["sets"] == ["300w:heldout"]


def test_a_choice_where_some_values_diverge(tmp_path, monkeypatch, capsys):
    config, run = few_pictures(tmp_path), tmp_path / "run"

    def diverge(config, workdir):
        if config.optim.learning_rate > 0.002 or "mse" in str(workdir):
            raise NonFiniteError("loss is nan at step 7")

    def evaluate(config, workdir):
        (tmp_path / "report.json").write_text('{"nme": 5.0}')
        return [tmp_path / "report.json"]

    monkeypatch.setattr(choose, "train", diverge)
    monkeypatch.setattr(choose, "evaluate_workdir", evaluate)
    choices = choose.run(config, "awing_7", run, "optim.learning_rate", [1e-3, 3e-3], ["mse", "aw"])
    assert choices["aw"]["optim.learning_rate"]["nme"] == {"0.001": 5.0, "0.003": None} and "mse" not in choices
    assert "mse diverged with every value" in capsys.readouterr().out
    (run / "choices.json").write_text('{"aw": ')
    with pytest.raises(ValueError, match=r"choices\.json is no JSON .* run jaxlm choose again"):
        ablation.run(config, "awing_7", run, ["aw"])


def test_what_cannot_be_chosen(tmp_path):
    config = few_pictures(tmp_path)
    with pytest.raises(ValueError, match="which this config of 'awing' does not have"):
        choose.run(config, "awing_7", tmp_path, "optim.rate", [1.0], ["aw"])
    with pytest.raises(ValueError, match="set by the rows of awing_7"):
        choose.run(config, "awing_7", tmp_path, "loss.name", [1.0], ["aw"])
    with pytest.raises(ValueError, match="no row 'awing'"):
        choose.run(config, "awing_7", tmp_path, "optim.learning_rate", [1.0], ["awing"])
    config.eval.sets = ("300w:test",)
    with pytest.raises(ValueError, match="there is nothing to choose on: set heldout"):
        choose.run(config, "awing_7", tmp_path, "optim.learning_rate", [1.0], ["aw"])


TABLE_7 = {  # loss, weight map, boundary, coordinates, boundary coordinates
    "mse": ("mse", "none", 0, 0, 0),
    "mse_wm": ("mse", "dilated", 0, 0, 0),
    "aw": ("adaptive_wing", "none", 0, 0, 0),
    "aw_wm_base": ("adaptive_wing", "baseline", 0, 0, 0),
    "aw_wm": ("adaptive_wing", "dilated", 0, 0, 0),
    "aw_wm_b": ("adaptive_wing", "dilated", 1, 0, 0),
    "aw_wm_b_c": ("adaptive_wing", "dilated", 1, 1, 0),
    "aw_wm_b_c_cb": ("adaptive_wing", "dilated", 1, 1, 1),
}


@pytest.mark.parametrize("row", TABLE_7)
def test_a_row_of_table_7_is_what_its_name_says(row):
    config = awing_wflw.get_config(row)
    model = config.model
    parts = (model.boundary, model.coordinates, model.boundary_coordinates)
    assert (config.loss.name, config.heatmap.weight_map, *parts) == TABLE_7[row] and config.data.crop == "gt"
    assert set(TABLES["awing_7"].rows) == set(TABLE_7)


def test_every_row_and_config_builds():
    bases = {"ldeq": ldeq_faces68, "awing": awing_wflw, "reinit": reinit_300w, "tddfa": tddfa_rendered}
    for table, rows in TABLES.items():
        base = awing_lsp if table == "awing_8" else bases[table.partition("_")[0]]
        for row in rows.rows:
            systems.build(base.get_config(row))
    for module in (awing_300w, awing_cofw, awing_faces68, awing_lsp, awing_rendered, awing_wflw):
        for variant in ("", "smoke"):
            systems.build(module.get_config(variant))
        with pytest.raises(ValueError, match="There is no variant 'x'; choose"):
            module.get_config("x")
    full, last = awing_wflw.get_config(), awing_wflw.get_config("aw_wm_b_c_cb")
    last.data.crop = full.data.crop
    assert full.to_dict() == last.to_dict()
    assert awing_wflw.get_config("omega18_epsilon0.5").loss.options.to_dict() == {
        "alpha": 2.1, "omega": 18.0, "epsilon": 0.5, "theta": 0.5
    }  # fmt: skip
    assert len(TABLES["awing_5"].rows) == 15 and len(TABLES["awing_6"].rows) == 5


def test_a_row_begun_with_another_config_is_not_taken_for_this_one(tmp_path):
    config = awing_faces68.get_config("smoke")
    row = config.copy_and_resolve_references()
    apply_row("aw", TABLES["awing_7"].rows["aw"], row)
    config_file.write_config(tmp_path / "aw" / "seed1", row)
    config.data.root, config.eval.limit = "elsewhere", 3
    config.optim.learning_rate, config.heatmap.sigma = 1e-4, 2.0
    with pytest.raises(ValueError, match=r"begun with another heatmap\.sigma, optim\.learning_rate; choose"):
        ablation.run(config, "awing_7", tmp_path, ["mse"])  # "aw" would stand beside it in the table


def test_a_diverged_row_leaves_the_rest_of_the_table(tmp_path, monkeypatch):
    def train(config, workdir):
        if workdir.parent.name == "mse":
            raise NonFiniteError("Step 3: the loss is nan.")

    report = tmp_path / "report.json"
    report.write_text(
        json.dumps(dict(nme=4.5, data="d", split="test", count=3, crop="gt", normalizer="box", image_size=9, step=2))
    )
    report.with_suffix(".csv").write_text("face,nme\n0,4\n1,5\n")
    monkeypatch.setattr(ablation, "train", train)
    monkeypatch.setattr(ablation, "evaluate_workdir", lambda config, workdir: [report])
    config = awing_faces68.get_config("smoke")
    ablation.run(config, "awing_7", tmp_path, ["aw"])
    results = ablation.run(config, "awing_7", tmp_path, ["mse"])  # the row of before stays
    assert list(results) == ["mse", "aw"] and results["mse"]["measured"] is None
    table = (tmp_path / "table.md").read_text()
    assert "| MSE | 5.39 | +0.0% | – | – | – | – |" in table and "| AW | 4.65 | -13.7% | 4.50 | – | – | 4.50 |" in table


def test_an_unknown_row_table_or_field(tmp_path):
    with pytest.raises(ValueError, match=r"choose one of smoke, omega10_epsilon0\.5"):
        awing_wflw.get_config("aw_vm")
    with pytest.raises(
        ValueError, match="There is no table 'awing_9'; choose one of ldeq_gradient, ldeq_temperature, awing_5"
    ):
        ablation.run(awing_wflw.get_config(), "awing_9", tmp_path)
    with pytest.raises(ValueError, match="choose one of smoke, small, mse, aw"):
        awing_lsp.get_config("l1")
    with pytest.raises(ValueError, match="has no row 'l1'; choose one of mse, aw"):
        ablation.run(awing_lsp.get_config(), "awing_8", tmp_path, ["l1"])
    with pytest.raises(ValueError, match=r"'mse' changes model\.boundary, which this config of 'ldeq' does not have"):
        ablation.run(ldeq_faces68.get_config(), "awing_7", tmp_path, ["aw"])
    with pytest.raises(ValueError, match=r"--config\.loss\.options\.omega is set by the rows"):
        ablation.check_free("loss.options.omega", "awing_5")
    ablation.check_free("optim.learning_rate", "awing_5")

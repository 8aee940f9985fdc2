import json

import awing_faces68
import awing_lsp
import awing_wflw
import pytest
from data_sets import write_pts
from ml_collections import ConfigDict

from jaxlm import ablation
from jaxlm.paper_tables import TABLES, apply_variant


def tiny(config, root, cache):
    config.image_size = 32
    config.model.update(dict(stacks=1, features=16, depth=1, boundary_coordinates=False))
    config.optim.warmup_steps = 1
    config.train.update(dict(num_steps=2, batch_size=4, log_every=1, checkpoint_every=2))
    config.data.root, config.data.cache = str(root), str(cache)
    return config


def test_rows_are_trained_once_and_printed_beside_the_paper(tmp_path, capsys):
    write_pts(tmp_path / "data" / "300w" / "lfpw" / "trainset", 30)
    config = tiny(awing_faces68.get_config("smoke"), tmp_path / "data", tmp_path / "cache")
    config.data.sources = ConfigDict({"300w": config.data.sources["300w"]})
    config.eval.sets = ("300w:heldout",)
    results = ablation.run(config, "awing_7", tmp_path / "run", ["mse", "aw"])
    assert [results[row]["paper"] for row in ("mse", "aw")] == [5.39, 4.65]
    summary = json.loads((tmp_path / "run" / "table.json").read_text())
    assert summary["rows"]["aw"]["measured"] == summary["rows"]["aw"]["report"]["nme"] > 0
    written = (tmp_path / "run" / "table.md").read_text()
    assert "| AW | 4.65 | -13.7% |" in written and "300w:heldout" in written and "crop gt" in written
    assert written in capsys.readouterr().out
    for row, loss in (("mse", "mse"), ("aw", "adaptive_wing")):
        saved = json.loads((tmp_path / "run" / row / "config.json").read_text())
        assert saved["loss"]["name"] == loss and saved["seed"] == 0 and not saved["model"]["boundary"]
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*/checkpoints/*")}
    again = ablation.run(config, "awing_7", tmp_path / "run", ["mse", "aw"])
    assert again == results and stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_every_row_of_the_paper_fits_its_config():
    for table, rows in TABLES.items():
        base = awing_lsp if table == "awing_8" else awing_wflw
        for row in rows.rows:
            assert base.get_config(row).loss.on == "heatmaps"
    full, last = awing_wflw.get_config(), awing_wflw.get_config("aw_wm_b_c_cb")
    last.data.crop = full.data.crop
    assert full.to_dict() == last.to_dict()
    assert awing_wflw.get_config("omega18_epsilon0.5").loss.options.to_dict() == {
        "alpha": 2.1, "omega": 18.0, "epsilon": 0.5, "theta": 0.5
    }  # fmt: skip
    assert len(TABLES["awing_5"].rows) == 15 and len(TABLES["awing_6"].rows) == 5


def test_an_unknown_row_or_table(tmp_path):
    with pytest.raises(ValueError, match=r"choose one of smoke, omega10_epsilon0\.5"):
        awing_wflw.get_config("aw_vm")
    with pytest.raises(ValueError, match="There is no table 'awing_9'; choose one of awing_5"):
        ablation.run(awing_wflw.get_config(), "awing_9", tmp_path)
    with pytest.raises(ValueError, match="choose one of mse, aw"):
        apply_variant(awing_lsp.get_config(), "l1", ("awing_8",))

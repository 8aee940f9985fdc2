import cv2
import ldeq_faces68
import numpy as np
import pytest
from test_awing import make_batch, make_config, untrained

from jaxlm.commands import figures
from jaxlm.support import drawing
from jaxlm.workdir import config_file


def test_the_losses_are_drawn(tmp_path):
    (path,) = figures.write_figures(tmp_path, None, None, 3)
    assert cv2.imread(str(path)).std() > 10


def test_a_face_a_row_with_target_weights_and_answer():
    config, batch = make_config(), {key: np.asarray(value) for key, value in make_batch().items()}
    sheet = figures.heatmap_sheet(config, untrained(), batch)
    assert sheet.shape == (2 * 260 - 4, 6 * 260 - 4, 3)
    boundary_target = sheet[:256, 4 * 260 : 4 * 260 + 256]
    assert boundary_target.max() > 200 and boundary_target.std() > 20


def test_a_heatmap_lies_over_its_image():
    image = np.full((32, 32, 3), 100, np.uint8)
    heatmap = np.zeros((8, 8))
    heatmap[2, 5], heatmap[0, 0] = 1.0, -3.0
    drawn = drawing.overlay_heatmap(image, heatmap, side=64).astype(int)
    bright = np.argwhere(drawn.sum(axis=-1) > 400)
    np.testing.assert_array_equal([bright.min(axis=0), bright.max(axis=0)], [[16, 40], [23, 47]])
    np.testing.assert_array_equal(drawn[0, 0], [60, 60, 60])


def test_a_workdir_without_target_heatmaps(tmp_path):
    config_file.write_config(tmp_path / "run", ldeq_faces68.get_config())
    with pytest.raises(ValueError, match="has no target heatmaps to draw"):
        figures.write_figures(tmp_path, tmp_path / "run", None, 1)


def test_a_config_written_before_there_were_losses_on_heatmaps(tmp_path):
    old = ldeq_faces68.get_config()
    with old.unlocked():
        del old.loss
        old.loss = "smooth_l1"
    config_file.write_config(tmp_path / "run", old)
    assert config_file.load_config(tmp_path / "run").loss.to_dict() == {
        "on": "landmarks", "name": "smooth_l1", "options": {}
    }  # fmt: skip

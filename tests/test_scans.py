import json

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxlm.commands import meta_choices
from jaxlm.config import load_config_file
from jaxlm.evaluation import dense
from jaxlm.face3d import mesh_files, scans
from jaxlm.face3d.model_files import load_face_model
from jaxlm.support.errors import BadSample
from jaxlm.workdir import config_file


@pytest.fixture
def scan_file(tmp_path):
    """The built-in head as a scan whose texture tells left (dark) from right (bright)."""
    model = load_face_model("head", identity=2, expression=2)
    vertices = np.asarray(model.mean, np.float64)
    across = (vertices[:, 0] - vertices[:, 0].min()) / np.ptp(vertices[:, 0])
    uv = np.stack([across, np.full(len(across), 0.5)], axis=1)
    texture = np.repeat(np.linspace(20, 250, 64).astype(np.uint8)[None, :, None], 3, axis=2).repeat(4, axis=0)
    cv2.imwrite(str(tmp_path / "skin.png"), texture)
    mesh_files.write_obj(tmp_path / "head.obj", vertices, np.asarray(model.triangles), uv=uv, texture="skin.png")
    return tmp_path / "head.obj", vertices


def test_a_scan_is_read_and_photographed(scan_file):
    path, vertices = scan_file
    scan = scans.read_scan(path)
    assert scan.triangles.max() < len(scan.vertices) and scan.texture.shape == (4, 64, 3)
    np.testing.assert_allclose(np.ptp(scan.vertices, axis=0), np.ptp(vertices, axis=0), rtol=1e-4)
    image, surface = scans.photograph(scan, 0.0, 0.0, size=96)
    assert image[48, 30].mean() > 1.0 and image[48, 40].mean() < image[48, 60].mean()  # left is dark
    assert (image[2, 2] == 60).all()
    turned, moved = scans.photograph(scan, 0.0, 60.0, size=96)
    assert moved[:, 0].mean() > moved[np.argmax(scan.vertices[:, 2]), 0]  # the nose goes to the viewer's left
    assert surface.shape == scan.vertices.shape and turned.shape == (96, 96, 3)


def test_polygons_and_missing_textures(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n")
    scan = scans.read_scan(tmp_path / "a.obj")
    assert scan.triangles.tolist() == [[0, 1, 2], [0, 2, 3]] and (scan.texture == 170).all()
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf -4 -3 -2 -1\n")
    np.testing.assert_array_equal(scans.read_scan(tmp_path / "a.obj").vertices, scan.vertices)
    (tmp_path / "b.obj").write_text("v 0 0 zero\n")
    with pytest.raises(BadSample, match=r"b\.obj, line 1 is not OBJ"):
        scans.read_scan(tmp_path / "b.obj")
    (tmp_path / "c.obj").write_text("# nothing\n")
    with pytest.raises(BadSample, match=r"has 0 vertices and 0 faces"):
        scans.read_scan(tmp_path / "c.obj")


def test_alignment_undoes_a_similarity():
    model = load_face_model("head", identity=2, expression=2)
    surface = np.asarray(model.mean, np.float64)
    points = surface[np.asarray(model.landmarks)]
    turn = Rotation.from_euler("xyz", [3, -4, 2], degrees=True).as_matrix()
    moved = 1.04 * points @ turn.T + [2.0, -1.0, 30.0]
    aligned = scans.align(moved, surface, steps=100)
    assert np.linalg.norm(aligned - points, axis=1).mean() < 2.0  # millimetres
    exact, eyes = dense.scan_error(surface, model, surface)
    left, right = points[[36, 45]]
    assert exact < 1e-9 and eyes == pytest.approx(float(np.linalg.norm(left - right)))
    assert dense.scan_error(surface * [1.0, 1.1, 1.0], model, surface)[0] > 0.1


def test_vertex_error_ignores_the_depth_of_the_whole():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(50, 3))
    assert dense.vertex_error(target + [0, 0, 7.0], target, 2.0) < 1e-12
    assert dense.vertex_error(target + [3.0, 4.0, 7.0], target, 2.0) == pytest.approx(2.5)


def test_the_mean_of_the_bins():
    members = {"a": np.array([True, True, False]), "b": np.array([False, False, True])}
    report = dense.DenseResult(np.array([0.01, 0.03, 0.10]), members, 9).report()
    assert report["nme"] == pytest.approx(14 / 3) and report["nme_mean_of_subsets"] == pytest.approx(6.0)


def test_the_selection_is_drawn(tmp_path):
    config = load_config_file("tddfa_rendered:smoke")
    config_file.write_config(tmp_path, config)
    rows = [{"step": 4 * i, "kind": "train", "chosen": float(i > 5), "chosen_vdc": 100.0 / i} for i in range(1, 10)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shares = meta_choices.plot([tmp_path], tmp_path / "selection.png")
    assert shares[str(tmp_path)] == (0.0, 1.0)
    assert cv2.imread(str(tmp_path / "selection.png")) is not None
    config.loss.name = "fwpdc"
    config_file.write_config(tmp_path, config)
    with pytest.raises(ValueError, match=r"was not trained with loss\.name = meta_joint"):
        meta_choices.plot([tmp_path], tmp_path / "selection.png")

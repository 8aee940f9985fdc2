import json

import awing_lsp
import ldeq_faces68
import numpy as np
import pytest
from data_sets import write_csv, write_lsp, write_pts

from jaxlm import geometry
from jaxlm.data import batches, sources
from jaxlm.evaluation import stills
from jaxlm.evaluation.report import table, write_report
from jaxlm.schemes import LSP14
from jaxlm.systems import Prediction


def answers(source, config, offsets):
    """A predictor that is off by `offsets` (N, K, 2) pixels of the picture, whatever it sees."""
    transform, calls = batches.CropTransform(config, None), iter(range(1000))

    def predict(variables, images):
        del variables
        batch = next(calls) * len(images)
        landmarks = np.zeros((len(images), source.scheme.num_landmarks, 2), np.float32)
        for row, index in enumerate(range(batch, min(batch + len(images), len(source)))):
            record = source.records[index]
            matrix = transform.crop_of(record)["transform"]
            landmarks[row] = geometry.apply_affine(matrix, record["landmarks"] + offsets[index])
        return Prediction(landmarks, np.ones(landmarks.shape[:2], np.float32), {})

    return predict


def test_every_normalizer_of_a_face(tmp_path, capsys):
    write_pts(tmp_path / "300w" / "lfpw" / "trainset", 7)
    config = ldeq_faces68.get_config("smoke")
    config.data.root, config.data.cache = str(tmp_path), str(tmp_path / "cache")
    config.data.sources["300w"].heldout = 0.0
    config.eval.batch_size = 4
    source = sources.open_set(config, "300w:train")
    offsets = np.random.default_rng(0).normal(size=(7, 68, 2))
    result = stills.evaluate(answers(source, config, offsets), {}, source, config)
    points = np.array([source.records[i]["landmarks"] for i in range(7)])
    error = np.linalg.norm(offsets, axis=-1).mean(axis=1)
    eyes = np.linalg.norm(points[:, 36] - points[:, 45], axis=-1)
    pupils = np.linalg.norm(points[:, 36:42].mean(axis=1) - points[:, 42:48].mean(axis=1), axis=-1)
    size = np.ptp(points, axis=1)
    np.testing.assert_allclose(result.nme, error / eyes, rtol=1e-4)
    row = result.row()
    assert set(row["nme_by_normalizer"]) == {"inter_pupil", "box", "points_box", "diagonal"}
    np.testing.assert_allclose(row["nme_by_normalizer"]["inter_pupil"], 100 * (error / pupils).mean(), rtol=1e-4)
    np.testing.assert_allclose(
        row["nme_by_normalizer"]["box"], 100 * (error / np.sqrt(size.prod(axis=1))).mean(), rtol=1e-4
    )
    np.testing.assert_allclose(row["fr8"], 100 * (error / eyes > 0.08).mean())
    np.testing.assert_allclose(row["auc8"], np.maximum(0, 1 - error / eyes / 0.08).mean(), rtol=1e-4)
    mouth = np.linalg.norm(offsets[:, 48:], axis=-1) / eyes[:, None]
    np.testing.assert_allclose(result.parts(source.scheme)["mouth"]["nme"], 100 * mouth.mean(), rtol=1e-4)
    text = table(result, config, "faces")
    assert "inter_pupil (faces)" in text and f"{row['nme_by_normalizer']['inter_pupil']:.3f} (7)" in text


def test_each_normalizer_counts_every_face_that_has_it(tmp_path):
    """Three of eight faces lack an eye corner: they have no inter-ocular distance, but a box."""
    rows = write_csv(tmp_path / "own", 8).read_text().splitlines()
    for number in (2, 4, 7):
        cells = rows[number].split(",")
        cells[1 + 2 * 36 : 3 + 2 * 36] = ["", ""]
        rows[number] = ",".join(cells)
    (tmp_path / "own" / "landmarks.csv").write_text("\n".join(rows) + "\n")
    config = ldeq_faces68.get_config("smoke")
    config.data.root, config.data.cache, config.eval.batch_size = str(tmp_path), str(tmp_path / "cache"), 8
    config.data.sources["ytf68"].update(root="own", heldout=0.0)
    source = sources.open_set(config, "ytf68:train")
    offsets = np.random.default_rng(0).normal(size=(8, 68, 2)) * np.linspace(1, 4, 8)[:, None, None]
    row = stills.evaluate(answers(source, config, offsets), {}, source, config).row()
    assert row["count"] == 5 and row["count_by_normalizer"]["points_box"] == 8
    exists = np.array([source.records[i]["mask"] for i in range(8)], bool)
    points = np.array([source.records[i]["landmarks"] for i in range(8)])
    error = np.linalg.norm(offsets, axis=-1)
    error = np.where(exists, error, 0).sum(axis=1) / exists.sum(axis=1)
    sizes = [np.ptp(one[mask], axis=0) for one, mask in zip(points, exists, strict=True)]
    expected = 100 * np.mean([e / np.sqrt(size.prod()) for e, size in zip(error, sizes, strict=True)])
    np.testing.assert_allclose(row["nme_by_normalizer"]["points_box"], expected, rtol=1e-4)


def test_a_body_is_measured_in_torsos(tmp_path):
    joints = write_lsp(tmp_path / "lsp", 9, extended=True)
    config = awing_lsp.get_config("small")
    config.data.root, config.data.cache = str(tmp_path / "lsp"), str(tmp_path / "cache")
    config.data.sources["lsp"].heldout = 0.0
    config.eval.batch_size = 4
    source = sources.open_set(config, "lsp:train")
    torso = {number: np.linalg.norm(joint[9] - joint[2]) for number, joint in enumerate(joints)}
    numbers = [int(source.records[i]["key"].decode()[2:]) - 1 for i in range(9)]
    offsets = np.zeros((9, 14, 2))
    for row, number in enumerate(numbers):
        offsets[row, :, 0] = np.where(np.arange(14) < 6, 0.21, 0.19) * torso[number]
    result = stills.evaluate(answers(source, config, offsets), {}, source, config)
    parts = result.parts(LSP14)
    correct = {name: values["pck20"] for name, values in parts.items()}
    assert correct == {"head": 100, "shoulder": 100, "elbow": 100, "wrist": 100, "hip": 0, "knee": 0, "ankle": 0}
    np.testing.assert_allclose(result.row()["pck20"], 100 * 8 / 13)  # one of the six wrong ones is not annotated
    text = table(result, config, "poses")
    assert "mean PCK@0.2 61.54 %" in text and "PCK@0.2 %" in text
    path = write_report(tmp_path / "eval", "lsp", result, source, config, 7)
    report = json.loads(path.read_text())
    assert report["normalizer"] == "torso" and report["parts"]["wrist"]["pck20"] == 100


def test_a_normalizer_that_the_scheme_lacks(tmp_path):
    write_lsp(tmp_path / "lsp", 3, extended=True)
    config = awing_lsp.get_config("small")
    config.data.root, config.data.cache = str(tmp_path / "lsp"), str(tmp_path / "cache")
    config.data.sources["lsp"].heldout = 0.0
    config.data.normalizer = "inter_ocular"
    source = sources.open_set(config, "lsp:train")
    with pytest.raises(ValueError, match="lsp14 has no normalizer 'inter_ocular'; choose one of torso"):
        stills.evaluate(answers(source, config, np.zeros((3, 14, 2))), {}, source, config)

import json

import jax
import numpy as np
import pytest
import reinit_faces68
from data_sets import write_pts
from ml_collections import ConfigDict

from jaxlm import geometry
from jaxlm.commands import robustness
from jaxlm.data import batches, crops, sources
from jaxlm.data.augment import Augmentation, Perturbation, label_noise, make_crop, random_box
from jaxlm.evaluation import detector_boxes
from jaxlm.evaluation.robustness import AMOUNTS
from jaxlm.schemes import get_scheme
from jaxlm.training import train

SCHEME = get_scheme("faces68")


def record():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (120, 140, 3), np.uint8),
        "landmarks": rng.uniform(30, 90, (68, 2)),
        "mask": np.ones(68, np.uint8),
        "visibility": np.ones(68, np.float32),
        "bbox": np.array([20.0, 25.0, 90.0, 105.0]),
    }


def crop(perturbation=None, seed=0, face=None):
    options = dict(scheme=SCHEME, crop="reinit", size=64, normalizer_name="inter_ocular")
    sample = record() if face is None else {**record(), "face": face}
    return make_crop(sample, **options, perturbation=perturbation, rng=np.random.default_rng(seed))


def test_a_perturbed_box_is_wrong_by_what_it_says():
    plain, side = crop(), 1.2 * 80
    grown = crop(Perturbation(scale=0.25))
    np.testing.assert_allclose(grown["landmarks"] - 31.5, (plain["landmarks"] - 31.5) / 1.25, atol=1e-3)
    np.testing.assert_allclose(grown["normalizer"], plain["normalizer"] / 1.25, rtol=1e-5)
    shifts = []
    for seed in range(20):
        moved = crop(Perturbation(translation=0.2), seed)
        shift = (moved["landmarks"] - plain["landmarks"]) * side / 64
        np.testing.assert_allclose(np.linalg.norm(shift, axis=1), 0.2 * 75, atol=1e-3)
        shifts.append(shift[0])
    signs = np.sign(shifts)
    assert (signs.min(axis=0) == -1).all() and (signs.max(axis=0) == 1).all()  # in every direction
    angles = set()
    for seed in range(10):
        turned = crop(Perturbation(degrees=20.0), seed)
        matrix = turned["transform"][:, :2] @ np.linalg.inv(plain["transform"][:, :2])
        angles.add(round(float(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0]))), 3))
    assert angles == {-20.0, 20.0}
    np.testing.assert_array_equal(crop(face=record()["bbox"])["image"], plain["image"])


def test_training_boxes_follow_the_distribution_and_repeat_themselves():
    mean, deviation = (0.1, -0.2, 0.05, -0.1), (0.05, 0.1, 0.02, 0.04)
    tight = np.array([10.0, 20.0, 60.0, 100.0])
    rng = np.random.default_rng(0)
    drawn = [random_box(tight, Augmentation(box=(*mean, *deviation)), rng) for _ in range(3000)]
    values = np.array([detector_boxes.offsets(box, tight) for box in drawn])
    np.testing.assert_allclose(values.mean(axis=0), mean, atol=0.01)
    np.testing.assert_allclose(values.std(axis=0), deviation, rtol=0.06)
    few = Augmentation(box=(*mean, *deviation), box_samples=20)
    drawn = {tuple(random_box(tight, few, rng)) for _ in range(400)}
    assert len(drawn) == 20
    assert not drawn & {tuple(random_box(tight + 1.0, few, rng)) for _ in range(400)}


def test_label_noise_is_a_disc_and_the_same_every_time():
    sample = record()
    mask = np.ones(68, bool)
    landmarks = np.asarray(sample["landmarks"])
    reach = 10 / 256 * np.ptp(landmarks, axis=0).max()
    errors = np.linalg.norm(label_noise(landmarks, mask, 10.0), axis=1)
    assert errors.max() < reach and errors.max() > 0.9 * reach
    np.testing.assert_allclose(np.square(errors).mean(), reach**2 / 2, rtol=0.25)
    crops_of = [
        make_crop(sample, scheme=SCHEME, crop="reinit", size=64, normalizer_name="inter_ocular",
                  augmentation=Augmentation(label_noise=radius), rng=np.random.default_rng(seed))
        for radius, seed in ((10.0, 0), (10.0, 1), (0.0, 0))
    ]  # fmt: skip
    np.testing.assert_array_equal(crops_of[0]["landmarks"], crops_of[1]["landmarks"])
    moved = np.linalg.norm(crops_of[0]["landmarks"] - crops_of[2]["landmarks"], axis=1) * 96 / 64
    np.testing.assert_allclose(moved, errors, atol=1e-3)


def test_the_box_that_a_detector_means_covers_the_face():
    tight = np.array([10.0, 10.0, 50.0, 50.0])
    found = np.array([[60.0, 60.0, 100.0, 100.0], [5.0, 5.0, 80.0, 80.0], [8.0, 12.0, 52.0, 55.0]])
    np.testing.assert_array_equal(detector_boxes.nearest_box(found, tight), found[2])
    assert detector_boxes.nearest_box(found[:1], tight) is None and detector_boxes.nearest_box(found[:0], tight) is None


def test_protocols_that_ignore_the_box_are_known():
    assert [crops.looks_at_box(name) for name in ("gt", "tddfa_landmarks", "reinit", "dpr", "hih")] == [
        False, False, True, True, True,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("robust")
    write_pts(folder / "data" / "300w" / "lfpw" / "trainset", 24)
    config = reinit_faces68.get_config("gsr")
    config.model.update(dict(backbone="nano", global_side=32))
    config.data.root, config.data.cache = str(folder / "data"), str(folder / "cache")
    config.data.sources = ConfigDict({"300w": config.data.sources["300w"]})
    config.eval.sets = ("300w:heldout",)
    config.train.update(dict(num_steps=2, batch_size=4, log_every=1, checkpoint_every=2))
    train(config, folder / "gsr")
    return config, folder


def test_any_workdir_gets_the_tables_and_the_plot(trained, capsys):
    _, folder = trained
    results = robustness.run([folder / "gsr"], None, folder / "out")
    result = results["gsr"]
    assert {kind: len(values) for kind, values in result.perturbed.items()} == {
        kind: len(amounts) for kind, amounts in AMOUNTS.items()
    }
    assert np.isfinite([*result.perturbed.values()]).all() and set(result.detectors) == {"landmarks", "given", "haar"}
    # An untrained network predicts the mean face in the box, so a box twice as wrong is about twice as bad.
    assert result.perturbed["translation"][-1] > result.perturbed["translation"][0] + 5
    # Points of .pts files bring no box: the given one is that of the landmarks.
    assert result.detectors["given"] == pytest.approx(result.perturbed["scale"][0])
    assert result.detectors["landmarks"] == pytest.approx(result.detectors["given"])
    written = (folder / "out" / "robustness.md").read_text()
    assert written in capsys.readouterr().out and "300w:heldout" in written and "| gsr |" in written
    report = json.loads((folder / "out" / "robustness.json").read_text())
    assert report["results"]["gsr"]["perturbed"]["scale"] == result.perturbed["scale"]
    assert (folder / "out" / "robustness.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="same name"):
        robustness.run([folder / "gsr", folder / "gsr"], None, folder / "out")


def test_boxes_are_measured(trained):
    config, _ = trained
    found = detector_boxes.measure(sources.open_set(config, "300w:train"))
    np.testing.assert_allclose(found.values, 0.0, atol=1e-5)
    assert found.missed == 0 and found.distribution() == (0.0,) * 8
    wider = detector_boxes.offsets(np.array([0.0, 0.0, 40.0, 20.0]), np.array([0.0, 0.0, 20.0, 20.0]))
    np.testing.assert_allclose(wider, [0.5, 0.0, np.log(2.0), 0.0])


def test_full_pictures_and_stretched_crops_are_measured_in_the_pictures_pixels(trained):
    """A perfect prediction has no error, and one off by a pixel of the picture the same whatever the crop."""
    from jaxlm.evaluation import stills
    from jaxlm.systems import Prediction

    config, _ = trained
    source = sources.open_set(config, "300w:heldout")
    values = []
    for name in ("dpr", "reinit"):
        changed = config.copy_and_resolve_references()
        changed.data.crop = name
        batch = next(batches.eval_batches(source, changed, len(source)))
        matrix = batch["transform"].astype(np.float64)
        in_picture = geometry.apply_affine(geometry.invert_affine(matrix), batch["landmarks"])
        off = geometry.apply_affine(matrix, in_picture + np.array([2.0, 0.0]))
        padded = np.zeros((config.eval.batch_size, 68, 2), np.float32)
        padded[: len(off)] = off
        result = stills.evaluate(lambda v, x, padded=padded: Prediction(padded, np.ones(()), {}), {}, source, changed)
        values.append(result.nme)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-4)
    assert jax.device_count() == 1

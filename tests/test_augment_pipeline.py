import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from data_sets import face, write_csv, write_pts
from ml_collections import ConfigDict

from jaxlm.data import sources
from jaxlm.data.augment import Augmentation, make_crop
from jaxlm.data.batches import eval_batches, train_batches
from jaxlm.schemes import FACES68
from jaxlm.support.pictures import warp

FIELDS = dict(rotation=40.0, scale=0.3, translation=0.1, flip=1.0)


def record(seed=0, size=96):
    image, points = face(seed, size)
    box = np.concatenate([points.min(axis=0), points.max(axis=0)])
    return {
        "image": image[..., ::-1],
        "landmarks": points,
        "mask": np.ones(68, bool),
        "visibility": np.ones(68, np.float32),
        "bbox": box,
        "key": b"face",
    }


def crop_of(sample, augmentation=None, seed=0, size=128, crop="gt"):
    rng = np.random.default_rng(seed)
    options = dict(scheme=FACES68, crop=crop, size=size, normalizer_name="inter_ocular")
    return make_crop(sample, augmentation=augmentation, rng=rng, **options)


def bright_centers(image, points, radius=4):
    """Centre of mass of what is bright around each point: where the drawn dot is."""
    grey = image.astype(float).mean(axis=2)
    grey = np.clip(grey - np.median(grey) - 8, 0, None)
    found = []
    for x, y in points:
        left, top = round(x) - radius, round(y) - radius
        window = grey[top : top + 2 * radius + 1, left : left + 2 * radius + 1]
        rows, columns = np.mgrid[top : top + window.shape[0], left : left + window.shape[1]]
        found.append([(window * columns).sum() / window.sum(), (window * rows).sum() / window.sum()])
    return np.array(found)


def dot_record(size=96):
    """A picture with sub-pixel accurate dots, far apart, at the eye corners, mouth corners and chin."""
    sample = record(size=size)
    sharp = np.full((8 * size, 8 * size), 60, np.uint8)
    dots = [8, 36, 45, 48, 54]
    for x, y in sample["landmarks"][dots]:
        center = tuple(round((v + 0.5) * 8 * 16 - 8) for v in (x, y))
        cv2.circle(sharp, center, 12 * 16, 255, -1, cv2.LINE_AA, 4)
    sample["image"] = np.dstack([cv2.resize(sharp, (size, size), interpolation=cv2.INTER_AREA)] * 3)
    return sample, dots


@pytest.mark.parametrize("size", [48, 128, 256])
@pytest.mark.parametrize("augmented", [False, True])
def test_landmarks_move_with_the_pixels(size, augmented):
    """Warped points equal the points of the warped picture, to a fifth of a crop pixel, shrunk or enlarged."""
    sample, dots = dot_record()
    field = Augmentation(rotation=40.0, scale=0.1, translation=0.03, flip=1.0) if augmented else None
    element = crop_of(sample, field, seed=3, size=size)
    order = FACES68.flip if augmented else np.arange(68)
    where = [int(np.flatnonzero(order == d)[0]) for d in dots]
    points = element["landmarks"][where]
    inside = (points > 6).all(axis=1) & (points < size - 7).all(axis=1)
    assert inside.sum() >= 3
    radius = max(round(4 * size / 128), 3)
    found = bright_centers(element["image"], points[inside], radius)
    np.testing.assert_allclose(found, points[inside], atol=0.18 * max(size / 128, 1))


def test_a_heavily_shrunk_picture_does_not_alias():
    image = np.zeros((512, 512, 3), np.uint8)
    image[:, ::2] = 255
    transform = np.array([[0.11, 0.0, 0.0], [0.0, 0.11, 0.0]])
    small = warp(image, transform, 50)[4:-4, 4:-4]
    assert np.abs(small.astype(int) - 128).max() < 40


def test_transform_maps_the_image_to_the_crop():
    sample = record()
    element = crop_of(sample, Augmentation(**{**FIELDS, "flip": 0.0}))
    mapped = sample["landmarks"] @ element["transform"][:, :2].T + element["transform"][:, 2]
    np.testing.assert_allclose(mapped, element["landmarks"], atol=1e-3)
    corners = np.linalg.norm(element["landmarks"][36] - element["landmarks"][45])
    np.testing.assert_allclose(element["normalizer"], corners, rtol=1e-5)


def test_a_rotation_keeps_the_box_normaliser_and_encloses_the_box():
    sample = record()
    plain, turned = (crop_of(sample, Augmentation(rotation=r), seed=4) for r in (0.0, 60.0))
    options = dict(scheme=FACES68, crop="gt", size=128, normalizer_name="box", rng=np.random.default_rng(4))
    boxed = make_crop(sample, augmentation=Augmentation(rotation=60.0), **options)
    width, height = plain["bbox"][2:] - plain["bbox"][:2]
    np.testing.assert_allclose(boxed["normalizer"], np.sqrt(width * height), rtol=1e-5)
    assert (turned["landmarks"] >= turned["bbox"][:2] - 1e-3).all()
    assert (turned["landmarks"] <= turned["bbox"][2:] + 1e-3).all()


def test_missing_landmarks_stay_masked_zeros_also_when_flipped():
    sample = record()
    sample["mask"][[0, 40]] = False
    sample["landmarks"] = np.where(sample["mask"][:, None], sample["landmarks"], 0.0)
    element = crop_of(sample, Augmentation(flip=1.0))
    assert set(np.flatnonzero(~element["mask"])) == {16, int(FACES68.flip[40])}
    np.testing.assert_array_equal(element["landmarks"][~element["mask"]], 0)
    assert np.isfinite(element["landmarks"]).all()


def test_two_flips_are_none():
    sample = record(size=128)
    plain, flipped = crop_of(sample), crop_of(sample, Augmentation(flip=1.0))
    apart = np.abs(flipped["image"][:, ::-1].astype(int) - plain["image"])
    assert apart.max() < 10 and apart.mean() < 0.01  # OpenCV rounds the places to 1/32 pixel
    mirrored = flipped["landmarks"][FACES68.flip] * [-1, 1] + [127, 0]
    np.testing.assert_allclose(mirrored, plain["landmarks"], atol=1e-3)


PIXELS = ("blur", "noise", "occlusion", "color", "grey", "low_resolution")


@pytest.mark.parametrize("field", PIXELS)
def test_each_pixel_augmentation_changes_pixels_only(field):
    sample = record()
    plain, changed = crop_of(sample), crop_of(sample, Augmentation(**{field: 1.0}), seed=1)
    assert np.abs(changed["image"].astype(int) - plain["image"]).max() > 8
    np.testing.assert_array_equal(changed["landmarks"], plain["landmarks"])


def make_config(tmp_path, **train):
    config = ConfigDict(dict(scheme="faces68", seed=3, image_size=48, system="ldeq"))
    write_csv(tmp_path / "csv", 10)
    write_pts(tmp_path / "300w" / "lfpw" / "trainset", 6)
    common = dict(train_split="train", heldout=0.0, group="", on_bad="error")
    config.data = dict(root=str(tmp_path), cache=str(tmp_path / "cache"), crop="gt", normalizer="box", threads=2)
    config.data.sources = {
        "a": dict(builder="own", root="csv", weight=0.75, **common),
        "b": dict(builder="300w", root="300w", weight=0.25, **common),
    }
    config.augment = {**FIELDS, "flip": 0.5, "occlusion": 0.5}
    config.train = {"batch_size": 4, **train}
    config.eval = {"batch_size": 4}
    return config


def take(batches, count):
    return [next(batches) for _ in range(count)]


def same(left, right):
    return all(all((a[key] == b[key]).all() for key in a) for a, b in zip(left, right, strict=True))


def test_training_batches_resume_to_the_sample(tmp_path):
    config = make_config(tmp_path)
    batches = iter(train_batches(config))
    take(batches, 5)
    state = json.loads(json.dumps(batches.get_state()))
    expected = take(batches, 4)
    again = iter(train_batches(config))
    again.set_state(state)
    assert same(take(again, 4), expected)
    assert not same(take(again, 4), expected)


def test_processes_share_a_batch(tmp_path):
    config = make_config(tmp_path)
    whole = take(iter(train_batches(config)), 3)
    parts = [take(iter(train_batches(config, process_index=i, process_count=2)), 3) for i in range(2)]
    for number, batch in enumerate(whole):
        for i in range(2):
            np.testing.assert_array_equal(parts[i][number]["image"], batch["image"][i::2])
    with pytest.raises(ValueError, match="not divisible by 3 processes"):
        train_batches(config, process_index=0, process_count=3)


def test_mixture_weights(tmp_path):
    config = make_config(tmp_path, batch_size=20)
    masks = np.concatenate([batch["mask"] for batch in take(iter(train_batches(config)), 10)])
    from_csv = (~masks).any(axis=1).mean()  # only the CSV misses landmarks
    np.testing.assert_allclose(from_csv, 0.75, atol=0.02)


def test_evaluation_visits_every_sample_once_and_pads(tmp_path):
    config = make_config(tmp_path)
    source = sources.open_source(config, "a", None)
    batches = list(eval_batches(source, config, 4))
    assert [len(batch["index"]) for batch in batches] == [4, 4, 4]
    index = np.concatenate([batch["index"] for batch in batches])
    assert sorted(index[index >= 0]) == list(range(10)) and (index == -1).sum() == 2
    assert not batches[-1]["mask"][batches[-1]["index"] < 0].any()


def test_unknown_sources_and_splits(tmp_path):
    config = make_config(tmp_path)
    with pytest.raises(ValueError, match="choose one of a, b"):
        sources.open_source(config, "c", None)
    with pytest.raises(ValueError, match="has no split 'test'; it has train"):
        sources.open_set(config, "a:test")


def test_tensorflow_is_never_imported(tmp_path):
    """Nor is PyTorch: in a process of its own that prepares a data set and reads batches of it."""
    config = make_config(tmp_path)
    config.model = {}
    (tmp_path / "config.json").write_text(config.to_json())
    code = """
import sys
from jaxlm import training
from jaxlm.data import batches
from jaxlm.workdir import config_file
next(iter(batches.train_batches(config_file.load_config(sys.argv[1]))))
assert not {"tensorflow", "torch"} & set(sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]

import cv2
import numpy as np
import pytest
from data_sets import face, write_coco, write_csv, write_pts, write_wflw

from jaxlm.data.builder import FaceBuilder
from jaxlm.data.readers.points import read_points_folder, read_pts
from jaxlm.data.sets.own import OwnData
from jaxlm.data.sets.three_hundred_w import ThreeHundredW
from jaxlm.data.sets.wflw import Wflw
from jaxlm.support import pictures
from jaxlm.support.errors import BadSample


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def own(root, tmp_path, **options):
    builder = OwnData(root, tmp_path / "cache", scheme="faces68", **options)
    builder.prepare()
    return builder


def test_pts_are_one_based(tmp_path):
    write_pts(tmp_path / "faces", 2)
    points = read_pts(tmp_path / "faces" / "image_001.pts", 68)
    np.testing.assert_allclose(points, face(1)[1], atol=1e-4)


@pytest.mark.parametrize("write", [write_csv, write_coco])
def test_formats_round_trip_through_the_cache(tmp_path, write):
    path = write(tmp_path / "with space", 4)
    builder = own(path, tmp_path)
    records = builder.as_data_source(split="train")
    by_key = {record["key"].decode(): record for record in (records[i] for i in range(len(records)))}
    assert len(records) == 4
    number = 1
    key = "person 0_1.jpg" if write is write_csv else "1.png#1"
    record, points = by_key[key], face(number)[1]
    missing = 3 if write is write_csv else 1
    mask = record["mask"].astype(bool)
    assert not mask[:missing].any() and mask[missing:].all()
    np.testing.assert_allclose(record["landmarks"][mask], points[mask], atol=1e-3)
    np.testing.assert_array_equal(record["landmarks"][~mask], 0)
    assert pictures.decode_image(record["image"]).shape == (96, 96, 3)
    if write is write_coco:
        assert record["visibility"][1] == 0 and record["visibility"][2] == 1
        np.testing.assert_allclose(record["bbox"][2:], points.max(axis=0), atol=1e-3)


def test_a_folder_of_pts_and_a_folder_with_one_file(tmp_path):
    write_pts(tmp_path / "pts" / "deep", 3)
    assert own(tmp_path / "pts", tmp_path).info.splits["train"].num_examples == 3
    write_csv(tmp_path / "csv", 2)
    assert own(tmp_path / "csv", tmp_path).info.splits["train"].num_examples == 2


def test_wflw_splits_and_subsets(tmp_path):
    write_wflw(tmp_path / "WFLW", 3, 5)
    builder = Wflw(tmp_path / "WFLW", tmp_path / "cache", scheme="faces98")
    builder.prepare()
    records = builder.as_data_source(split="test")
    flags = {records[i]["key"].decode().split("#")[1]: records[i]["subsets"] for i in range(5)}
    assert builder.info.splits["train"].num_examples == 3
    np.testing.assert_array_equal(flags["1"], [1, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(flags["2"], [0, 0, 0, 0, 0, 0])


def test_a_partial_300w_says_what_is_missing(tmp_path, capsys):
    write_pts(tmp_path / "lfpw" / "trainset", 3)
    write_pts(tmp_path / "ibug", 2)
    builder = ThreeHundredW(tmp_path, tmp_path / "cache", scheme="faces68")
    builder.prepare()
    printed = capsys.readouterr().out
    assert "lacks afw, helen/trainset" in printed and "lfpw/trainset" not in printed
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 3, "test": 2}
    np.testing.assert_array_equal(builder.as_data_source(split="test")[0]["subsets"], [0, 1, 0, 0])


def test_held_out_people_stay_together_and_are_stable(tmp_path):
    path = write_csv(tmp_path / "csv", 40)
    options = dict(heldout=0.3, group=r"^(.*)_\d+\.")
    builder = own(path, tmp_path, **options)
    people = {}
    for split in ("train", "heldout"):
        records = builder.as_data_source(split=split)
        people[split] = [records[i]["key"].decode().split("_")[0] for i in range(len(records))]
    assert len(people["train"]) + len(people["heldout"]) == 40
    assert not set(people["train"]) & set(people["heldout"])
    assert 2 <= len(people["heldout"]) <= 24
    again = own(path, tmp_path / "other", **options).as_data_source(split="heldout")
    assert sorted(again[i]["key"].decode().split("_")[0] for i in range(len(again))) == sorted(people["heldout"])


def test_validation_is_taken_from_the_training_part_alone(tmp_path):
    path = write_csv(tmp_path / "csv", 40)

    def keys(**options):
        builder = own(path, tmp_path, **options)
        return {
            split: {record["key"] for record in builder.as_data_source(split=split)} for split in builder.info.splits
        }

    before, after = keys(heldout=0.3), keys(heldout=0.3, validation=0.2)
    assert after["heldout"] == before["heldout"] and after["validation"]
    assert after["train"] == before["train"] - after["validation"]
    assert len(after["validation"]) + len(after["train"]) == len(before["train"])
    assert keys(validation=0.2)["validation"] and set(keys(validation=0.2)) == {"train", "validation"}
    with pytest.raises(ValueError, match=r"together, got 0\.6 and 0\.5"):
        own(path, tmp_path, heldout=0.6, validation=0.5)


def test_two_programs_prepare_the_same_data(tmp_path, monkeypatch):
    path, options = write_csv(tmp_path / "csv", 4), dict(scheme="faces68")
    first, second, third = (OwnData(path, tmp_path / "cache", **options) for _ in range(3))
    generate = first._generate_examples

    def meanwhile(samples):
        second.prepare()
        yield from generate(samples)

    monkeypatch.setattr(first, "_generate_examples", meanwhile)
    for builder in (first, third):
        builder.prepare()
        assert len(builder.as_data_source(split="train")) == 4


def test_an_edited_file_is_read_again(tmp_path):
    path = write_csv(tmp_path / "csv", 2)
    own(path, tmp_path)
    write_csv(tmp_path / "csv", 3)
    assert own(path, tmp_path).info.splits["train"].num_examples == 3


def test_a_new_version_of_a_reader_prepares_the_data_again(tmp_path, monkeypatch):
    path = write_csv(tmp_path / "csv", 2)

    def folder():
        return OwnData(path, tmp_path / "cache", scheme="faces68").data_dir

    first = folder()
    assert folder() == first
    monkeypatch.setattr(FaceBuilder, "READER", FaceBuilder.READER + 1)
    assert folder() != first


def test_a_replaced_picture_is_read_again(tmp_path):
    path = write_csv(tmp_path / "csv", 2)
    picture = tmp_path / "csv" / "images" / "person 0_1.jpg"
    good = picture.read_bytes()
    truncate(picture)
    assert own(path, tmp_path, on_bad="skip").info.splits["train"].num_examples == 1
    picture.write_bytes(good)
    assert own(path, tmp_path, on_bad="skip").info.splits["train"].num_examples == 2


def test_wflw_for_a_model_of_68_points(tmp_path):
    write_wflw(tmp_path / "WFLW", 1, 1)
    builder = Wflw(tmp_path / "WFLW", tmp_path / "cache", scheme="faces68")
    builder.prepare()
    points = builder.as_data_source(split="test")[0]["landmarks"]
    np.testing.assert_allclose(points[[36, 45, 8]], face(0, count=98)[1][[60, 72, 16]], atol=1e-3)
    with pytest.raises(ValueError, match="WFLW has 98 landmarks"):
        Wflw(tmp_path / "WFLW", tmp_path / "cache", scheme="cofw29")


def test_nothing_usable_is_a_sentence(tmp_path):
    path = write_csv(tmp_path / "csv", 1)
    (tmp_path / "csv" / "images" / "person 0_0.jpg").unlink()
    with pytest.raises(ValueError, match="has no usable sample: 1 were skipped"):
        own(path, tmp_path, on_bad="skip")


def bad_csv(tmp_path, change):
    path = write_csv(tmp_path / "csv", 3)
    change(path, tmp_path / "csv" / "images")
    return path


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


BAD_CSV = {
    "columns": (lambda csv, images: csv.write_text(csv.read_text() + "a.jpg,1,2\n"), r"\.csv, line 5 has 3 columns"),
    "header": (lambda csv, images: edit(csv, ",x67,y67", ""), r"line 1: the header has 67 landmarks .* has 68"),
    "missing picture": (lambda csv, images: next(images.iterdir()).unlink(), r"cannot be read \(No such file"),
    "truncated": (lambda csv, images: truncate(images / "person 0_1.jpg"), r"line 3: .*person 0_1\.jpg is truncated"),
    "text": (lambda csv, images: (images / "person 0_0.jpg").write_text("hello"), r"line 2: .* or not a picture"),
    "infinite": (
        lambda csv, images: edit(csv, f"{face(1)[1][8, 1]:.3f}", "inf"),
        r"line 3, column y8: 'inf' is not a finite number",
    ),
    "word": (lambda csv, images: edit(csv, f"{face(0)[1][9, 0]:.3f}", "left"), r"line 2, column x9: 'left'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_csv_names_the_line_or_is_skipped_and_listed(tmp_path, case, capsys):
    change, message = BAD_CSV[case]
    path = bad_csv(tmp_path, change)
    with pytest.raises(BadSample, match=message) as caught:
        own(path, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.array_record*"))  # nothing half-written stays behind
    if case == "header":
        return
    builder = own(path, tmp_path, on_bad="skip")
    assert builder.info.splits["train"].num_examples == (3 if case == "columns" else 2)
    assert "1 samples skipped, listed in" in capsys.readouterr().out
    listed = next((tmp_path / "cache").rglob("skipped.txt")).read_text()
    assert len(listed.splitlines()) == 1


def test_bad_pts(tmp_path):
    write_pts(tmp_path / "faces", 1)
    path = tmp_path / "faces" / "image_000.pts"
    good = path.read_text()
    path.write_text("\n".join(line for i, line in enumerate(good.splitlines()) if i != 5))
    with pytest.raises(BadSample, match=r"image_000\.pts has 67 points where the scheme has 68"):
        own(tmp_path / "faces", tmp_path)
    path.write_text(good.replace(good.splitlines()[7], "nan 3.0"))
    with pytest.raises(BadSample, match="two finite numbers"):
        own(tmp_path / "faces", tmp_path)
    path.write_text("68 points")
    with pytest.raises(BadSample, match=r"not a \.pts file"):
        own(tmp_path / "faces", tmp_path)
    path.write_text(good)
    (tmp_path / "faces" / "image_000.png").unlink()
    with pytest.raises(BadSample, match="has no picture beside it"):
        own(tmp_path / "faces", tmp_path)


def test_bad_boxes_and_wflw_columns(tmp_path):
    write_wflw(tmp_path / "WFLW", 1, 1)
    path = tmp_path / "WFLW" / Wflw.LIST.format("train")
    row = path.read_text().split(maxsplit=206)

    def message(numbers):
        path.write_text(" ".join([*row[:196], *numbers, *row[200:]]))
        builder = Wflw(tmp_path / "WFLW", tmp_path / "cache", scheme="faces98")
        with pytest.raises(BadSample) as caught:
            builder.prepare()
        return str(caught.value)

    assert "line 1: the box 30 30 30 60 has no area" in message(["30", "30", "30", "60"])
    assert "of 96×96 pixels; expected x1 y1 x2 y2" in message(["200", "200", "300", "300"])
    assert "has a number that is not finite" in message(["nan", "0", "9", "9"])
    row[200:] = ["0", "picture.png"]
    assert "line 1 has 202 columns where WFLW's lists have 207" in message(["0", "0", "9", "9"])


def test_bad_coco(tmp_path):
    path = write_coco(tmp_path / "coco", 2)
    edit(path, '"keypoints": [0.0, 0.0, 0.0,', '"keypoints": [')
    with pytest.raises(BadSample, match=r"annotations\[0\] has 201 numbers .* 3 × 68"):
        own(path, tmp_path)
    path.write_text('{"images": []')
    with pytest.raises(BadSample, match="is not COCO-keypoints JSON"):
        own(path, tmp_path)


def test_wrong_roots_say_what_is_expected(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        OwnData(tmp_path / "nothing", tmp_path, scheme="faces68")
    with pytest.raises(ValueError, match=r"holds no \.pts or \.txt files"):
        OwnData(tmp_path, tmp_path, scheme="faces68")
    with pytest.raises(ValueError, match="is not WFLW"):
        Wflw(tmp_path, tmp_path, scheme="faces98")
    with pytest.raises(ValueError, match="is not 300-W"):
        ThreeHundredW(tmp_path, tmp_path, scheme="faces68")


@pytest.mark.parametrize("kind", ["grey", "16 bit", "alpha", "cmyk"])
def test_unusual_pictures_become_rgb(tmp_path, kind):
    gradient = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    path = tmp_path / "picture.png"
    if kind == "grey":
        cv2.imwrite(str(path), gradient)
    elif kind == "16 bit":
        cv2.imwrite(str(path), gradient.astype(np.uint16) * 257)
    elif kind == "alpha":
        cv2.imwrite(str(path), np.dstack([gradient] * 3 + [np.full_like(gradient, 128)]))
    else:
        image = pytest.importorskip("PIL.Image")
        path = tmp_path / "picture.jpg"
        image.fromarray(gradient).convert("RGB").convert("CMYK").save(path, quality=98)
    picture = pictures.decode_image(path.read_bytes())
    assert picture.shape == (48, 64, 3) and picture.dtype == np.uint8
    np.testing.assert_allclose(picture.mean(axis=2), gradient, atol=6)


def test_the_300w_faces_that_are_here(real_data, tmp_path):
    builder = ThreeHundredW(real_data / "300w", tmp_path, scheme="faces68", heldout=0.1)
    builder.prepare()
    counts = {name: split.num_examples for name, split in builder.info.splits.items()}
    assert sum(counts.values()) == 805 and 50 < counts["heldout"] < 120


def test_a_folder_of_counted_points_with_boxes(tmp_path):
    """`.txt` with the number of points first, 0-based, and the face's box in `.rct`."""
    for number in range(3):
        image, points = face(number)
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), image)
        lines = "\n".join(f"{x:.4f} {y:.4f}" for x, y in points)
        (tmp_path / f"{number}.txt").write_text(f"68\n{lines}\n")
    (tmp_path / "1.rct").write_text("10 12 80 90\n")
    (tmp_path / "notes.txt").write_text("not points: there is no picture beside it")
    samples = list(read_points_folder(tmp_path, 68))
    assert [sample.key for sample in samples] == ["0", "1", "2"]
    np.testing.assert_allclose(samples[2].landmarks, face(2)[1], atol=1e-4)
    np.testing.assert_array_equal(samples[1].bbox, [10, 12, 80, 90])
    assert samples[0].bbox is None
    (tmp_path / "1.rct").write_text("10 12 80")
    (tmp_path / "2.txt").write_text("68\n1 2\n3 x\n")
    messages = [str(sample) for sample in read_points_folder(tmp_path, 68)][1:]
    assert "1.rct must hold the face's box" in messages[0] and "2.txt has a line that is not two numbers" in messages[1]

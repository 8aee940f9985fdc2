from pathlib import Path

import cv2
import numpy as np
import pytest
from data_sets import moving_box, video_in, write_video, write_wflwv

from jaxlm import geometry
from jaxlm.data.sets.three_hundred_w import ThreeHundredVW
from jaxlm.data.sets.wflw import WflwV
from jaxlm.data.video_batches import Video, crop_chunks, video_of
from jaxlm.data.video_builder import VideoSample, check_video
from jaxlm.data.video_files import VideoFile, VideoWriter
from jaxlm.support.errors import BadSample
from jaxlm.support.pictures import picture_change


def test_wflwv_splits_lists_and_schemes(tmp_path, capsys):
    root = tmp_path / "WFLW_V"
    write_wflwv(root, {"a": 4, "b": 6, "c": 2})
    (root / "hard_video_IDs.txt").write_text("b\ngone\n")
    (root / "easy_video_IDs.txt").write_text("a\n\nc\n")
    builder = WflwV(root, tmp_path / "cache", scheme="faces98")
    builder.prepare()
    assert "lacks 1 of 2 videos (gone)" in capsys.readouterr().out
    hard, easy = (builder.as_data_source(split=split) for split in ("hard", "easy"))
    assert {record["key"].decode() for record in easy} == {"a", "c"} and len(hard) == 1
    np.testing.assert_allclose(hard[0]["landmarks"], np.load(root / "landmarks" / "b.npy"), rtol=1e-6)
    assert hard[0]["bbox"].shape == (6, 4) and hard[0]["mask"].all()
    (root / "hard_video_IDs.txt").unlink()
    (root / "easy_video_IDs.txt").unlink()
    builder = WflwV(root, tmp_path / "cache", scheme="faces68")
    builder.prepare()
    assert len(builder.as_data_source(split="test")) == 3
    shapes = {record["landmarks"].shape for record in builder.as_data_source(split="test")}
    assert shapes == {(4, 68, 2), (6, 68, 2), (2, 68, 2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: np.save(root / "landmarks/a.npy", np.zeros((4, 97, 2))), "97 points a frame"),
        (lambda root: np.save(root / "landmarks/a.npy", np.zeros((9, 98, 2))), "9 frames of landmarks, but 4 boxes"),
        (lambda root: np.save(root / "bboxes/a.npy", np.zeros((4, 3))), "3 columns"),
        (lambda root: (root / "bboxes/a.npy").unlink(), r"a\.npy is missing"),
        (lambda root: np.save(root / "landmarks/a.npy", np.array([{}]), allow_pickle=True), "not an array of numbers"),
        (
            lambda root: np.save(root / "bboxes/a.npy", np.tile([500.0, 5, 510, 9], (4, 1))),
            "box 500 5 510 9 of frame 0",
        ),
        (lambda root: write_video(root / "videos/a.mp4", 2), "2 frames, but 4 are labelled"),
        (lambda root: (root / "videos/a.mp4").write_text("?"), "not a video"),
    ],
)
def test_bad_labels_are_named(tmp_path, change, message):
    write_wflwv(tmp_path / "v", {"a": 4, "b": 3})
    change(tmp_path / "v")
    with pytest.raises(ValueError, match=message):
        WflwV(tmp_path / "v", tmp_path / "cache", scheme="faces98").prepare()
    skipping = WflwV(tmp_path / "v", tmp_path / "cache", scheme="faces98", on_bad="skip")
    skipping.prepare()
    assert [record["key"].decode() for record in skipping.as_data_source(split="test")] == ["b"]


def write_300vw_labels(folder: Path, names: dict[int, str]) -> None:
    """A `.pts` file of this name for each frame, from 1 on; its first landmark is at (10 + frame, 20), 1-based."""
    folder.mkdir(parents=True)
    for frame, name in names.items():
        lines = "\n".join(f"{10 + i / 4 + frame} {20 + i % 7}" for i in range(68))
        (folder / name).write_text(f"version: 1\nn_points: 68\n{{\n{lines}\n}}\n")


def test_300vw_masks_frames_without_landmarks(tmp_path):
    for key in ("001", "114"):
        (tmp_path / "v" / key).mkdir(parents=True)
        video = cv2.VideoWriter(str(tmp_path / "v" / key / "vid.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
        for _ in range(5):
            video.write(np.zeros((48, 64, 3), np.uint8))
        video.release()
        write_300vw_labels(tmp_path / "v" / key / "annot", {frame: f"{frame:06d}.pts" for frame in (1, 2, 4)})
    builder = ThreeHundredVW(tmp_path / "v", tmp_path / "cache", scheme="faces68")
    builder.prepare()
    assert set(builder.info.splits) == {"train", "category1"}
    record = builder.as_data_source(split="train")[0]
    np.testing.assert_array_equal(record["mask"].all(axis=1), [True, True, False, True])
    np.testing.assert_allclose(record["landmarks"][0, 0], [10, 19])  # 1-based in the file
    assert np.isnan(record["bbox"][2]).all() and np.isfinite(record["bbox"][[0, 1, 3]]).all()


def test_300vw_pictures_without_labels_are_lost_faces(tmp_path):
    folder = tmp_path / "v" / "001"
    (folder / "imgs").mkdir(parents=True)
    for frame in range(1, 6):
        cv2.imwrite(str(folder / "imgs" / f"{frame:06d}.jpg"), np.full((48, 64, 3), 40 * frame, np.uint8))
    write_300vw_labels(folder / "annot", {frame: f"{frame}.pts" for frame in (1, 2, 4)})
    builder = ThreeHundredVW(tmp_path / "v", tmp_path / "cache", scheme="faces68")
    builder.prepare()
    record = builder.as_data_source(split="train")[0]
    np.testing.assert_array_equal(record["mask"].all(axis=1), [True, True, False, True, False])
    np.testing.assert_allclose(record["landmarks"][[0, 3], 0, 0], [10, 13])


def test_real_300vw_layout(real_data, tmp_path):
    builder = ThreeHundredVW(real_data / "formats" / "mmpose" / "300vw", tmp_path, scheme="faces68")
    builder.prepare()
    for split in ("train", "category1"):
        video = video_of(builder.as_data_source(split=split)[0])
        chunk = next(crop_chunks([video], crop="gt", size=64, chunk=2, min_iou=0.3))
        assert chunk["exists"].all() and chunk["image"].std() > 10


def test_crops_come_in_pieces_and_say_where_to_restart(tmp_path):
    boxes = moving_box(7)
    boxes[2] = np.nan
    boxes[5:] += 15
    videos = [video_in(tmp_path / "a.mp4", boxes), video_in(tmp_path / "b.mp4", moving_box(3))]
    options = dict(crop="box", size=16, min_iou=0.4, batch_size=3)
    whole = next(crop_chunks(videos, chunk=7, **options))
    pieces = list(crop_chunks(videos, chunk=3, **options))
    assert len(pieces) == 3 and pieces[0]["image"].shape == (3, 3, 16, 16, 3)
    for key in whole:
        joined = np.concatenate([piece[key] for piece in pieces], axis=1)
        np.testing.assert_array_equal(joined[:, :7], whole[key])
    np.testing.assert_array_equal(whole["exists"][0], [True, True, False, True, True, True, True])
    np.testing.assert_array_equal(whole["exists"].sum(axis=1), [6, 3, 0])
    np.testing.assert_array_equal(np.flatnonzero(whole["restart"][0]), [0, 3, 5])
    center = geometry.apply_affine(whole["transform"][0, 1], boxes[1].reshape(2, 2)).mean(axis=0)
    np.testing.assert_allclose(center, [7.5, 7.5])


def test_a_cut_restarts_and_an_occluder_does_not(tmp_path):
    rng = np.random.default_rng(0)
    scenes = [cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48)) for _ in range(2)]
    hidden = scenes[0].copy()
    hidden[:, 48:] = 60
    assert picture_change(scenes[0], scenes[0]) < 1e-9 and picture_change(scenes[0], scenes[1]) > 0.6
    assert picture_change(scenes[0], hidden) < 0.45
    assert picture_change(np.full((8, 8, 3), 10, np.uint8), np.full((8, 8, 3), 90, np.uint8)) == 0.0
    with VideoWriter(tmp_path / "a.mp4", 25.0) as writer:
        for picture in (scenes[0], hidden, scenes[0], scenes[1], scenes[1]):
            writer.write(picture)
    boxes = np.tile([4.0, 4, 60, 44], (5, 1))
    video = Video(VideoFile(tmp_path / "a.mp4"), boxes, np.zeros((5, 1, 2)), np.zeros((5, 1), bool))
    options = dict(crop="box", size=32, min_iou=0.4, max_change=0.45)
    for chunk in (5, 3):
        pieces = list(crop_chunks([video], chunk=chunk, **options))
        restart = np.concatenate([piece["restart"][0] for piece in pieces])[:5]
        np.testing.assert_array_equal(np.flatnonzero(restart), [0, 3])


def test_a_video_shorter_than_its_boxes_is_named(tmp_path):
    video = video_in(tmp_path / "a.mp4", moving_box(4))
    longer = Video(video.file, moving_box(6), np.zeros((6, 1, 2)), np.zeros((6, 1), bool))
    with pytest.raises(BadSample, match="ends after 4 frames where 6"):
        list(crop_chunks([longer], crop="box", size=16, chunk=8, min_iou=0.4))
    with pytest.raises(BadSample, match="truncated"):
        check_video(VideoSample(video.file.path, np.ones((6, 98, 2)), moving_box(6), "a"))

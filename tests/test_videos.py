import functools
import json
import sys
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import app, geometry, metrics, oracle, systems, track, video_evaluation
from jaxlm.data import rendered_videos
from jaxlm.data.clips import VideoFile, VideoWriter
from jaxlm.data.readers import BadSample
from jaxlm.data.video_builders import VideoSample, WflwV, check_video, write_labels
from jaxlm.data.video_pipeline import Video, by_length, crop_chunks, open_videos, video_of
from jaxlm.training import train

sys.path.insert(0, str(Path(__file__).parent.parent / "configs"))


def write_video(path: Path, frames: int, shape=(48, 64), fps: float = 25.0) -> np.ndarray:
    """A grey video in which each frame is brighter than the one before."""
    values = np.linspace(20, 230, max(frames, 1)).astype(np.uint8)
    pictures = np.tile(values[:, None, None, None], (1, *shape, 3))[:frames]
    with VideoWriter(path, fps) as writer:
        for picture in pictures:
            writer.write(picture)
    return pictures


def write_wflwv(root: Path, lengths: dict[str, int]) -> None:
    for number, (key, frames) in enumerate(lengths.items()):
        write_video(root / "videos" / f"{key}.mp4", frames)
        rng = np.random.default_rng(number)
        landmarks = rng.uniform(10, 40, (frames, 98, 2))
        boxes = np.stack([geometry.box_of_points(shape) for shape in landmarks])
        write_labels(root, key, landmarks, np.concatenate([boxes, np.ones((frames, 1))], axis=1))


@pytest.mark.parametrize("shape", [(48, 64), (49, 63)])
def test_a_written_video_reads_back(tmp_path, shape):
    pictures = write_video(tmp_path / "a video.mp4", 9, shape, fps=30.0)
    file = VideoFile(tmp_path / "a video.mp4")
    frames = np.stack(list(file))
    assert (file.num_frames, file.fps) == (9, 30.0)
    assert frames.shape == (9, shape[0] + shape[0] % 2, shape[1] + shape[1] % 2, 3)
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), pictures.mean(axis=(1, 2, 3)), atol=4)
    np.testing.assert_array_equal(frames, np.stack(list(file)))  # from the beginning again


def test_colours_are_red_green_blue(tmp_path):
    with VideoWriter(tmp_path / "red.mp4", 25) as writer:
        for _ in range(3):
            writer.write(np.tile(np.array([200, 30, 30], np.uint8), (32, 32, 1)))
    red, green, blue = next(iter(VideoFile(tmp_path / "red.mp4"))).mean(axis=(0, 1))
    assert red > 150 and green < 80 and blue < 80


def test_an_interrupted_video_leaves_nothing_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, 3)
    before = path.read_bytes()
    with pytest.raises(RuntimeError), VideoWriter(path, 25) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
        raise RuntimeError
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_folder_of_pictures_is_a_video(tmp_path):
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number:03d}.png"), np.full((20, 30, 3), 50 * number, np.uint8))
    file = VideoFile(tmp_path)
    assert file.num_frames == 3 and file.shape == (20, 30)
    assert [int(frame[0, 0, 0]) for frame in file] == [0, 50, 100]


@pytest.mark.parametrize("kind", ["missing", "text", "half", "empty folder"])
def test_what_is_no_video_is_named(tmp_path, kind):
    path = tmp_path / "clip.mp4"
    if kind == "text":
        path.write_text("not a video")
    elif kind == "half":
        write_video(path, 20)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    elif kind == "empty folder":
        path.mkdir()
    with pytest.raises(BadSample, match=r"clip\.mp4"):
        VideoFile(path)


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


def test_300vw_masks_frames_without_landmarks(tmp_path):
    from jaxlm.data.video_builders import ThreeHundredVW

    for key in ("001", "114"):
        write_video(tmp_path / "v" / key / "vid.avi", 0)
        video = cv2.VideoWriter(str(tmp_path / "v" / key / "vid.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
        for _ in range(5):
            video.write(np.zeros((48, 64, 3), np.uint8))
        video.release()
        annotations = tmp_path / "v" / key / "annot"
        annotations.mkdir(parents=True)
        for frame in (1, 2, 4):
            lines = "\n".join(f"{10 + i / 4 + frame} {20 + i % 7}" for i in range(68))
            (annotations / f"{frame:06d}.pts").write_text(f"version: 1\nn_points: 68\n{{\n{lines}\n}}\n")
    builder = ThreeHundredVW(tmp_path / "v", tmp_path / "cache", scheme="faces68")
    builder.prepare()
    assert set(builder.info.splits) == {"train", "category1"}
    record = builder.as_data_source(split="train")[0]
    np.testing.assert_array_equal(record["mask"].all(axis=1), [True, True, False, True])
    np.testing.assert_allclose(record["landmarks"][0, 0], [10, 19])  # 1-based in the file
    assert np.isnan(record["bbox"][2]).all() and np.isfinite(record["bbox"][[0, 1, 3]]).all()


def test_real_300vw_layout(real_data, tmp_path):
    from jaxlm.data.video_builders import ThreeHundredVW

    builder = ThreeHundredVW(real_data / "formats" / "mmpose" / "300vw", tmp_path, scheme="faces68")
    builder.prepare()
    for split in ("train", "category1"):
        video = video_of(builder.as_data_source(split=split)[0])
        chunk = next(crop_chunks([video], crop="gt", size=64, chunk=2, min_iou=0.3))
        assert chunk["exists"].all() and chunk["image"].std() > 10


def moving_box(frames: int) -> np.ndarray:
    start = np.array([10.0, 10.0, 30.0, 30.0])
    return start + np.arange(frames)[:, None]


def video_in(path: Path, boxes: np.ndarray) -> Video:
    write_video(path, len(boxes))
    return Video(VideoFile(path), boxes, np.zeros((len(boxes), 1, 2)), np.zeros((len(boxes), 1), bool))


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


def test_a_video_shorter_than_its_boxes_is_named(tmp_path):
    video = video_in(tmp_path / "a.mp4", moving_box(4))
    longer = Video(video.file, moving_box(6), np.zeros((6, 1, 2)), np.zeros((6, 1), bool))
    with pytest.raises(BadSample, match="ends after 4 frames where 6"):
        list(crop_chunks([longer], crop="box", size=16, chunk=8, min_iou=0.4))
    with pytest.raises(BadSample, match="truncated"):
        check_video(VideoSample(video.file.path, np.ones((6, 98, 2)), moving_box(6), "a"))


@functools.cache
def film(hard: bool):
    return rendered_videos.film(3, 0, num_frames=5, size=64, hard=hard)


@pytest.mark.parametrize("hard", [True, False])
def test_rendered_videos_move_and_repeat(hard):
    clip = film(hard)
    again = rendered_videos.film(3, 0, num_frames=5, size=64, hard=hard)
    np.testing.assert_array_equal(clip.frames, again.frames)
    np.testing.assert_array_equal(clip.landmarks, again.landmarks)
    steps = np.linalg.norm(np.diff(clip.landmarks, axis=0), axis=-1).mean(axis=1)
    assert (steps > 0.02).all() and (steps < 8).all()
    inside = (clip.landmarks > 0) & (clip.landmarks < 64)
    assert inside.mean() > 0.95 and clip.frames.std() > 10
    assert (np.abs(clip.bboxes - [geometry.box_of_points(s) for s in clip.landmarks]) < 6).all()


def test_hard_videos_are_rougher_than_easy_ones():
    def roughness(clip):
        return np.abs(np.diff(clip.frames.astype(float), axis=0)).mean()

    assert roughness(film(True)) > 1.5 * roughness(film(False))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A network that has taken six steps on rendered faces: it knows nothing, but it runs."""
    import quickstart

    folder = tmp_path_factory.mktemp("video")
    config = quickstart.get_config("smoke")
    config.image_size = 32
    config.data.cache = str(folder / "cache")
    config.data.sources.rendered.update(dict(num_train=16, num_test=4, size=64))
    config.data.sources.rendered_videos.update(dict(num_videos=2, num_frames=5, size=64))
    config.train.update(dict(num_steps=2, checkpoint_every=2, batch_size=4))
    config.video.chunk = 4
    config.video.batch_size = 2
    config.video.clips = 1
    config.video.methods = ("frame", "rwr", "frame+ema:0.7", "frame+savgol:3,1")
    train(config, folder / "run")
    return config, folder / "run"


def test_videos_are_evaluated_by_every_method(workdir, capsys):
    config, folder = workdir
    written = app.evaluate_workdir(config, folder, data="rendered_videos")
    out = capsys.readouterr().out
    assert [path.name for path in written] == ["rendered_videos_hard.json", "rendered_videos_easy.json"]
    report = json.loads(written[0].read_text())
    assert list(report["methods"]) == list(config.video.methods) and report["crop"] == "ldeq_video"
    assert {"nme", "nmf", "nmf_paper", "stability", "jitter", "restarts"} == set(report["methods"]["rwr"])
    assert report["methods"]["frame+ema:0.7"]["jitter"] < report["methods"]["frame"]["jitter"]
    assert "frame+savgol:3,1" in out and "crop ldeq_video, normalizer inter_ocular" in out
    names = {path.name for path in (folder / "eval").iterdir()}
    assert {"rendered_videos_accuracy_flicker.png", "rendered_videos_hard_trajectories.png"} <= names
    rows = (folder / "eval" / "rendered_videos_hard_frames.csv").read_text().splitlines()
    assert len(rows) == 1 + 4 * 2 * 5
    clips = [name for name in names if name.endswith(".mp4")]
    assert len(clips) == 2 and VideoFile(folder / "eval" / clips[0]).num_frames == 5


def test_a_result_does_not_depend_on_the_batch(workdir):
    config, folder = workdir

    variables, _ = app.restore_variables(config, folder)
    source = open_videos(config, "rendered_videos:hard")[0]
    assert list(by_length(source, 1)) == [[0], [1]]
    follower = video_evaluation.Follower(variables, config, ("rwr",))
    both = follower([video_of(source.records[i]) for i in range(2)])["rwr"]
    for index in range(2):
        alone = follower([video_of(source.records[index])])["rwr"][0]
        np.testing.assert_allclose(alone.landmarks, both[index].landmarks, atol=1e-3)
        score = video_evaluation.score_track(alone, video_of(source.records[index]), source.scheme, "inter_ocular")
        truth = source.records[index]["landmarks"]
        np.testing.assert_allclose(score.nmf, metrics.nmf(alone.landmarks.astype(np.float32), truth), rtol=1e-3)
    assert follower([])["rwr"] == []


def test_unknown_methods_are_refused():
    for name in ("rnn", "frame+median:3", "frame+ema:2"):
        with pytest.raises(ValueError):
            video_evaluation.parse_method(name)


def test_a_clip_is_tracked_from_file_to_file(workdir, tmp_path, capsys):
    config, folder = workdir
    source = open_videos(config, "rendered_videos:easy")[0]
    record = source.records[0]
    boxes = record["bbox"].copy()
    boxes[3] = np.nan  # a lost face

    system, (variables, _) = systems.build(config), app.restore_variables(config, folder)
    follower = video_evaluation.Follower(variables, config, ("frame", "rwr"), batch_size=1)
    landmarker = track.make_landmarker(system, variables, config)
    tracked = track.track_clip(follower, landmarker, VideoFile(record["video"].decode()), boxes)
    paths = track.write_outputs(tmp_path, tracked, config)
    stem = Path(record["video"].decode()).stem
    assert [path.name for path in paths] == [f"{stem}_landmarks.mp4", f"{stem}_landmarks.csv", f"{stem}_compared.mp4"]
    assert VideoFile(paths[0]).num_frames == 5
    rows = paths[1].read_text().splitlines()
    assert len(rows) == 5 and rows[0].startswith("frame,second,score,x0,y0") and rows[4].startswith("4,0.160,")
    frame = next(iter(VideoFile(record["video"].decode())))
    with VideoWriter(tmp_path / "one.mp4", 25) as writer:
        writer.write(frame)
    single = VideoFile(tmp_path / "one.mp4")
    one = track.track_clip(follower, landmarker, single, boxes[:1])
    assert one.tracks["rwr"].landmarks.shape == (1, 68, 2)
    for wrong, message in (
        (boxes[3:4], "no face was found"),
        (boxes, "1 frames, but there are 5"),
        (-boxes[:1], "area"),
    ):
        with pytest.raises(BadSample, match=message):
            track.track_clip(follower, landmarker, single, wrong)


def test_boxes_follow_a_face_and_give_up_a_lost_one(tmp_path):
    write_video(tmp_path / "clip.mp4", 8)
    found = np.array([[10.0, 10, 30, 30]])
    seen = []

    def landmarker(image, box):
        seen.append(box)
        score = 0.9 if len(seen) != 6 else 0.1  # unsure once
        return np.array([box[:2] + 1, box[2:] + 1]), score

    boxes = track.find_boxes(VideoFile(tmp_path / "clip.mp4"), lambda image: found, landmarker, 0.4)
    # Three rounds at the first frame, one at each of the next two; the sixth call loses the face, and it is found anew.
    np.testing.assert_array_equal(np.isnan(boxes).any(axis=1), [False] * 3 + [True] + [False] * 4)
    nobody = track.find_boxes(VideoFile(tmp_path / "clip.mp4"), lambda image: np.zeros((0, 4)), landmarker, 0.4)
    assert np.isnan(nobody).all() and len(nobody) == 8


def test_the_oracle_labels_in_wflwvs_layout(workdir, tmp_path, monkeypatch):
    config, folder = workdir
    other = tmp_path / "other"
    import shutil

    shutil.copytree(folder, other)
    source = open_videos(config, "rendered_videos:hard")[0]
    ensemble = oracle.Oracle([folder, other])
    record = source.records[0]
    file = VideoFile(record["video"].decode())
    labels = ensemble.label(file, record["bbox"])
    assert labels.landmarks.shape == (5, 68, 2) and labels.bboxes.shape == (5, 4)
    # Two copies of one model agree with each other and with the model.
    assert labels.variance.max() < 1e-3

    variables, _ = app.restore_variables(config, folder)
    # system.predict takes config.solver's own number of steps.
    steps = config.copy_and_resolve_references()
    steps.video.still_steps = config.solver.max_steps
    follower = video_evaluation.Follower(variables, steps, ("frame",))
    single = follower([video_of(record)])["frame"][0]
    np.testing.assert_allclose(labels.landmarks, single.landmarks, atol=0.02)
    write_labels(tmp_path / "out", "clip", labels.landmarks, labels.bboxes, variance=labels.variance)
    (tmp_path / "out" / "videos").mkdir()
    (tmp_path / "out" / "videos" / "clip.mp4").write_bytes(file.path.read_bytes())
    builder = WflwV(tmp_path / "out", tmp_path / "cache", scheme="faces68")
    builder.prepare()
    np.testing.assert_allclose(builder.as_data_source(split="test")[0]["landmarks"], labels.landmarks, atol=1e-3)
    with pytest.raises(BadSample, match="every model is left out of frame 2"):
        frames = np.arange(5) == 2
        ensemble.label(file, record["bbox"], {"run": frames, "other": frames})


def test_an_uncertain_or_left_out_model_counts_for_less():
    from jaxlm import heatmaps

    sharp = heatmaps.encode_gaussian(jnp.array([[[4.0, 4.0]]]), (16, 16), 0.8)
    broad = heatmaps.encode_gaussian(jnp.array([[[10.0, 10.0]]]), (16, 16), 2.5)
    maps = jnp.stack([sharp, broad])
    landmarks, variance = oracle.combine(maps, jnp.ones((2, 1)))
    assert (landmarks < 5.5).all() and (variance > 10).all()
    landmarks, variance = oracle.combine(maps, jnp.array([[0.0], [1.0]]))
    np.testing.assert_allclose(landmarks, 9.8, atol=0.5)
    np.testing.assert_allclose(variance, 0.0, atol=1e-5)


def test_hard_and_easy_lists_by_variance(tmp_path):
    difficulties = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 0.5, "e": float("nan")}
    assert oracle.write_split(tmp_path, difficulties, 0.25) == (["b"], ["d"])
    assert (tmp_path / "hard_video_IDs.txt").read_text() == "b\n"
    assert oracle.write_split(tmp_path, {"a": 1.0}, 0.5) == ([], [])
    assert not list(tmp_path.iterdir())  # empty lists would be a data set of nothing


def test_rules_of_left_out_models(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text('{"clip": [{"models": ["a", "b"], "frames": [1, 3]}]}')
    assert oracle.read_left_out(path, ["a", "b"]) == {"clip": [("a", 1, 3), ("b", 1, 3)]}
    with pytest.raises(ValueError, match="leaves out b; the models are a"):
        oracle.read_left_out(path, ["a"])
    path.write_text('{"clip": [{"models": ["a"], "frames": 3}]}')
    with pytest.raises(ValueError, match="must be JSON like"):
        oracle.read_left_out(path, ["a"])


def test_boxes_are_not_smoothed_over_a_cut():
    boxes = np.concatenate([moving_box(6), moving_box(6) + 200])
    smooth = track.smooth_boxes(boxes, 0.4)
    assert np.abs(smooth - boxes).max() < 4 and geometry.box_iou(smooth[5], smooth[6]) == 0


def test_a_video_has_one_size_and_is_read_back(tmp_path, monkeypatch):
    with pytest.raises(BadSample, match="one size"), VideoWriter(tmp_path / "a.mp4", 25) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
        writer.write(np.zeros((32, 48, 3), np.uint8))
    monkeypatch.setattr(VideoFile, "count", lambda self: 1)  # as if the disk had been full
    with pytest.raises(OSError, match="not be written whole"):
        write_video(tmp_path / "b.mp4", 5)
    assert not list(tmp_path.iterdir())


def test_300vw_pictures_without_labels_are_lost_faces(tmp_path):
    from jaxlm.data.video_builders import ThreeHundredVW

    folder = tmp_path / "v" / "001"
    (folder / "imgs").mkdir(parents=True)
    (folder / "annot").mkdir()
    for frame in range(1, 6):
        cv2.imwrite(str(folder / "imgs" / f"{frame:06d}.jpg"), np.full((48, 64, 3), 40 * frame, np.uint8))
    for frame in (1, 2, 4):
        lines = "\n".join(f"{10 + i / 4 + frame} {20 + i % 7}" for i in range(68))
        (folder / "annot" / f"{frame}.pts").write_text(f"version: 1\nn_points: 68\n{{\n{lines}\n}}\n")
    builder = ThreeHundredVW(tmp_path / "v", tmp_path / "cache", scheme="faces68")
    builder.prepare()
    record = builder.as_data_source(split="train")[0]
    np.testing.assert_array_equal(record["mask"].all(axis=1), [True, True, False, True, False])
    np.testing.assert_allclose(record["landmarks"][[0, 3], 0, 0], [10, 13])


def test_the_tuned_average_has_the_flicker_asked_for(workdir):
    config, _folder = workdir
    source = open_videos(config, "rendered_videos:hard")[0]
    videos = [video_of(source.records[i]) for i in range(len(source))]
    rng = np.random.default_rng(0)
    noisy, calm = ([], [])
    for video in videos:
        error = rng.normal(size=video.landmarks.shape)
        for tracks, strength in ((noisy, 1.0), (calm, 0.8)):
            landmarks = video.landmarks + strength * error
            tracks.append(video_evaluation.Track(landmarks, np.ones(landmarks.shape[:2]), np.ones(len(video), bool)))
    tracks = {"frame": noisy, "rwr": calm}
    scores = {
        name: [video_evaluation.score_track(t, v, source.scheme, "box") for t, v in zip(found, videos, strict=True)]
        for name, found in tracks.items()
    }
    result = video_evaluation.VideoResult(["a", "b"], tracks, scores)
    assert np.isclose(result.row("rwr")["nmf"], 0.8 * result.row("frame")["nmf"], rtol=1e-3)
    tuned = video_evaluation.tune_average(result, source, config)
    assert tuned is not None and 0.3 < tuned.alpha < 1
    assert np.isclose(tuned.nmf, result.row("rwr")["nmf"], rtol=0.01)
    assert video_evaluation.tune_average(result._replace(tracks={"frame": noisy}), source, config) is None
    assert video_evaluation.tune_average(result, source, config, base="rwr", like="frame") is None


def test_programs_end_in_one_sentence(workdir, tmp_path):
    import subprocess

    _, folder = workdir
    (tmp_path / "text.mp4").write_text("not a video")
    np.save(tmp_path / "boxes.npy", np.zeros((3, 2)))
    cases = [
        (["jaxlm.track", f"--workdir={folder}", str(tmp_path / "text.mp4")], "not a video"),
        (["jaxlm.track", f"--workdir={folder}", f"--boxes={tmp_path / 'boxes.npy'}", "clip.mp4"], "2 columns"),
        (["jaxlm.oracle", f"--workdirs={folder}", f"--out={tmp_path / 'o'}"], "Name at least one video"),
    ]
    for arguments, message in cases:
        ended = subprocess.run(
            [sys.executable, "-m", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent.parent
        )
        assert ended.returncode == 2 and message in ended.stderr and "Traceback" not in ended.stderr


def test_a_system_without_a_state_is_followed_frame_by_frame(workdir, capsys):
    config, folder = workdir
    variables, _ = app.restore_variables(config, folder)
    explicit = config.copy_and_resolve_references()
    explicit.model.explicit = True
    follower = video_evaluation.Follower(variables, explicit, ("frame", "rwr", "frame+ema:0.5"))
    assert "no state to start from" in capsys.readouterr().out
    video = video_of(open_videos(config, "rendered_videos:easy")[0].records[0])
    tracks = follower([video])
    assert list(tracks) == ["frame", "frame+ema:0.5"]
    options = dict(crop=config.video.crop, size=config.image_size, chunk=len(video), min_iou=config.video.min_iou)
    chunk = next(crop_chunks([video], **options))
    explicit.eval.flip_average = False
    stills = systems.build(explicit).predict(variables, jnp.asarray(chunk["image"][0]))
    expected = geometry.apply_affine(geometry.invert_affine(chunk["transform"][0]), np.asarray(stills.landmarks))
    np.testing.assert_allclose(tracks["frame"][0].landmarks, expected, atol=0.01)

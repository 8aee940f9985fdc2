import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import geometry, metrics, systems
from jaxlm.commands import evaluate
from jaxlm.data.sources import by_length, open_videos
from jaxlm.data.video_batches import crop_chunks, video_of
from jaxlm.data.video_files import VideoFile
from jaxlm.evaluation.videos import VideoResult, score_track, tune_average
from jaxlm.predict.follower import Follower, Track, parse_method
from jaxlm.workdir import restore


def test_videos_are_evaluated_by_every_method(video_workdir, capsys):
    config, folder = video_workdir
    written = evaluate.evaluate_workdir(config, folder, data="rendered_videos")
    out = capsys.readouterr().out
    assert [path.name for path in written] == ["rendered_videos_hard.json", "rendered_videos_easy.json"]
    report = json.loads(written[0].read_text())
    assert list(report["methods"]) == list(config.video.methods) and report["crop"] == "ldeq_video"
    assert {"nme", "nmf", "nmf_paper", "stability", "jitter", "restarts"} == set(report["methods"]["rwr"])
    assert report["methods"]["frame+ema:0.7"]["jitter"] < report["methods"]["frame"]["jitter"]
    change = report["changes"]["frame+ema:0.7"]
    frame, average = ([row[method]["nmf"] for row in report["videos"]] for method in ("frame", "frame+ema:0.7"))
    np.testing.assert_allclose(change["nmf"][0], np.mean(average) / np.mean(frame) - 1)
    assert change["nmf"][1] <= change["nmf"][0] <= change["nmf"][2] and report["changes"]["frame"]["nme"] is None
    assert f"{100 * change['nmf'][0]:+.1f} % (" in out
    assert "frame+savgol:3,1" in out and "crop ldeq_video, normalizer inter_ocular" in out
    names = {path.name for path in (folder / "eval").iterdir()}
    assert {"rendered_videos_accuracy_flicker.png", "rendered_videos_hard_trajectories.png"} <= names
    rows = (folder / "eval" / "rendered_videos_hard_frames.csv").read_text().splitlines()
    assert len(rows) == 1 + 4 * 2 * 5
    clips = [name for name in names if name.endswith(".mp4")]
    assert len(clips) == 2 and VideoFile(folder / "eval" / clips[0]).num_frames == 5


def test_a_result_does_not_depend_on_the_batch(video_workdir):
    config, folder = video_workdir

    variables, _ = restore.restore_variables(config, folder)
    source = open_videos(config, "rendered_videos:hard")[0]
    assert list(by_length(source, 1)) == [[0], [1]]
    follower = Follower(variables, config, ("rwr",))
    both = follower([video_of(source.records[i]) for i in range(2)])["rwr"]
    for index in range(2):
        alone = follower([video_of(source.records[index])])["rwr"][0]
        np.testing.assert_allclose(alone.landmarks, both[index].landmarks, atol=1e-3)
        score = score_track(alone, video_of(source.records[index]), source.scheme, "inter_ocular")
        truth = source.records[index]["landmarks"]
        np.testing.assert_allclose(score.nmf, metrics.nmf(alone.landmarks.astype(np.float32), truth), rtol=1e-3)
    assert follower([])["rwr"] == []


def test_unknown_methods_are_refused():
    for name, message in {
        "rnn": "no method 'rnn'",
        "frame+median:3": "no filter",
        "frame+ema:2": "alpha must lie",
        "frame:2": "must look like frame, with",
        "heatmap_ema": "must look like heatmap_ema:1,",
        "heatmap_ema:1.5": r"must lie in \(0, 1\]",
        "rwr:1.5": "give a whole one",
        "rwr:2,3": "must look like rwr or rwr:1,",
        "energy:-1": "with positive numbers",
        "energy:inf": "with positive numbers",
        "rwr:inf": "with positive numbers",
        "energy:x": "with positive numbers",
    }.items():
        with pytest.raises(ValueError, match=message):
            parse_method(name)
    assert parse_method("rwr:2+ema:0.8").tracker == "rwr:2"


def test_the_tuned_average_has_the_flicker_asked_for(video_workdir):
    config, _folder = video_workdir
    source = open_videos(config, "rendered_videos:hard")[0]
    videos = [video_of(source.records[i]) for i in range(len(source))]
    rng = np.random.default_rng(0)
    noisy, calm = ([], [])
    for video in videos:
        error = rng.normal(size=video.landmarks.shape)
        for tracks, strength in ((noisy, 1.0), (calm, 0.8)):
            landmarks = video.landmarks + strength * error
            tracks.append(Track(landmarks, np.ones(landmarks.shape[:2]), np.ones(len(video), bool)))
    tracks = {"frame": noisy, "rwr": calm}
    scores = {
        name: [score_track(t, v, source.scheme, "box") for t, v in zip(found, videos, strict=True)]
        for name, found in tracks.items()
    }
    result = VideoResult(["a", "b"], tracks, scores)
    assert np.isclose(result.row("rwr")["nmf"], 0.8 * result.row("frame")["nmf"], rtol=1e-3)
    tuned = tune_average(result, source, config)
    assert tuned is not None and 0.3 < tuned.alpha < 1
    assert np.isclose(tuned.nmf, result.row("rwr")["nmf"], rtol=0.01)
    rwr, average = (np.array([np.mean(score.nme) for score in scores["rwr"]]), tuned.nme)
    np.testing.assert_allclose(tuned.change[0], rwr.mean() / average - 1, rtol=1e-5)
    assert tune_average(result._replace(tracks={"frame": noisy}), source, config) is None
    assert tune_average(result, source, config, base="rwr", like="frame") is None


def test_a_system_without_a_state_is_followed_frame_by_frame(video_workdir, capsys):
    config, folder = video_workdir
    variables, _ = restore.restore_variables(config, folder)
    explicit = config.copy_and_resolve_references()
    explicit.model.explicit = True
    follower = Follower(variables, explicit, ("frame", "rwr", "frame+ema:0.5"))
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

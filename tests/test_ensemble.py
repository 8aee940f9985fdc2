import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import heatmaps
from jaxlm.commands import label_videos
from jaxlm.data.sets.wflw import WflwV
from jaxlm.data.sources import open_videos
from jaxlm.data.video_batches import video_of
from jaxlm.data.video_builder import write_labels
from jaxlm.data.video_files import VideoFile
from jaxlm.predict.ensemble import Ensemble, combine
from jaxlm.predict.follower import Follower
from jaxlm.support.errors import BadSample
from jaxlm.workdir import restore


def test_an_ensemble_labels_in_wflwvs_layout(video_workdir, tmp_path, monkeypatch):
    config, folder = video_workdir
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    source = open_videos(config, "rendered_videos:hard")[0]
    ensemble = Ensemble([folder, other])
    record = source.records[0]
    file = VideoFile(record["video"].decode())
    labels = ensemble.label(file, record["bbox"])
    assert labels.landmarks.shape == (5, 68, 2) and labels.bboxes.shape == (5, 4)
    # Two copies of one model agree with each other and with the model.
    assert labels.variance.max() < 1e-3

    variables, _ = restore.restore_variables(config, folder)
    # system.predict takes config.solver's own number of steps.
    steps = config.copy_and_resolve_references()
    steps.video.still_steps = config.solver.max_steps
    follower = Follower(variables, steps, ("frame",))
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
    sharp = heatmaps.encode_gaussian(jnp.array([[[4.0, 4.0]]]), (16, 16), 0.8)
    broad = heatmaps.encode_gaussian(jnp.array([[[10.0, 10.0]]]), (16, 16), 2.5)
    maps = jnp.stack([sharp, broad])
    landmarks, variance = combine(maps, jnp.ones((2, 1)))
    assert (landmarks < 5.5).all() and (variance > 10).all()
    landmarks, variance = combine(maps, jnp.array([[0.0], [1.0]]))
    np.testing.assert_allclose(landmarks, 9.8, atol=0.5)
    np.testing.assert_allclose(variance, 0.0, atol=1e-5)


def test_hard_and_easy_lists_by_variance(tmp_path):
    difficulties = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 0.5, "e": float("nan")}
    assert label_videos.write_split(tmp_path, difficulties, 0.25) == (["b"], ["d"])
    assert (tmp_path / "hard_video_IDs.txt").read_text() == "b\n"
    assert label_videos.write_split(tmp_path, {"a": 1.0}, 0.5) == ([], [])
    assert not list(tmp_path.iterdir())  # empty lists would be a data set of nothing


def test_rules_of_left_out_models(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text('{"clip": [{"models": ["a", "b"], "frames": [1, 3]}]}')
    assert label_videos.read_left_out(path, ["a", "b"]) == {"clip": [("a", 1, 3), ("b", 1, 3)]}
    with pytest.raises(ValueError, match="leaves out b; the models are a"):
        label_videos.read_left_out(path, ["a"])
    path.write_text('{"clip": [{"models": ["a"], "frames": 3}]}')
    with pytest.raises(ValueError, match="must be JSON like"):
        label_videos.read_left_out(path, ["a"])

from pathlib import Path

import numpy as np
import pytest
from data_sets import moving_box, write_video

from jaxlm import __main__ as front_door
from jaxlm import geometry
from jaxlm.commands import track
from jaxlm.data.sources import open_videos
from jaxlm.data.video_files import VideoFile, VideoWriter
from jaxlm.predict import face_boxes
from jaxlm.predict.follower import Follower
from jaxlm.predict.model import load_model
from jaxlm.support.errors import BadSample


def test_a_clip_is_tracked_from_file_to_file(video_workdir, tmp_path, capsys):
    config, folder = video_workdir
    source = open_videos(config, "rendered_videos:easy")[0]
    record = source.records[0]
    boxes = record["bbox"].copy()
    boxes[3] = np.nan  # a lost face

    model = load_model(folder)
    variables = model.variables
    follower = Follower(variables, config, ("frame", "rwr"), batch_size=1)
    landmarker = face_boxes.make_landmarker(model)
    tracked = track.track_clip(follower, landmarker, VideoFile(record["video"].decode()), boxes)
    paths = track.write_outputs(tmp_path, tracked, config)
    stem = Path(record["video"].decode()).stem
    assert [path.name for path in paths] == [f"{stem}_landmarks.mp4", f"{stem}_landmarks.csv", f"{stem}_compared.mp4"]
    assert VideoFile(paths[0]).num_frames == 5
    rows = paths[1].read_text().splitlines()
    assert len(rows) == 5 and rows[0].startswith("frame,second,face,score,x0,y0") and rows[4].startswith("4,0.160,0,")
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

    boxes = face_boxes.find_boxes(VideoFile(tmp_path / "clip.mp4"), lambda image: found, landmarker, 0.4)
    # Three rounds at the first frame, one at each of the next two; the sixth call loses the face, and it is found anew.
    np.testing.assert_array_equal(np.isnan(boxes).any(axis=1), [False] * 3 + [True] + [False] * 4)
    nobody = face_boxes.find_boxes(VideoFile(tmp_path / "clip.mp4"), lambda image: np.zeros((0, 4)), landmarker, 0.4)
    assert np.isnan(nobody).all() and len(nobody) == 8


def test_boxes_are_not_smoothed_over_a_cut():
    boxes = np.concatenate([moving_box(6), moving_box(6) + 200])
    smooth = face_boxes.smooth_boxes(boxes, 0.4)
    assert np.abs(smooth - boxes).max() < 4 and geometry.box_iou(smooth[5], smooth[6]) == 0


def test_programs_end_in_one_sentence(video_workdir, tmp_path, capsys):
    _, folder = video_workdir
    (tmp_path / "text.mp4").write_text("not a video")
    np.save(tmp_path / "boxes.npy", np.zeros((3, 2)))
    cases = [
        (["track", f"--workdir={folder}", str(tmp_path / "text.mp4")], "not a video"),
        (["track", f"--workdir={folder}", f"--boxes={tmp_path / 'boxes.npy'}", "clip.mp4"], "2 columns"),
        (["label-videos", f"--workdirs={folder}", f"--out={tmp_path / 'o'}"], "Name at least one video"),
    ]
    for (command, *words), message in cases:
        with pytest.raises(SystemExit) as end:
            front_door.main(command, [*words, f"--out={tmp_path / 'o'}"] if command == "track" else words)
        assert end.value.code == 2 and message in capsys.readouterr().err

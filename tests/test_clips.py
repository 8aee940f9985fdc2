import cv2
import numpy as np
import pytest
from data_sets import write_video

from jaxlm.data.video_files import VideoFile, VideoWriter
from jaxlm.support.errors import BadSample


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


def test_a_video_has_one_size_and_is_read_back(tmp_path, monkeypatch):
    with pytest.raises(BadSample, match="one size"), VideoWriter(tmp_path / "a.mp4", 25) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
        writer.write(np.zeros((32, 48, 3), np.uint8))
    monkeypatch.setattr(VideoFile, "count", lambda self: 1)  # as if the disk had been full
    with pytest.raises(OSError, match="not be written whole"):
        write_video(tmp_path / "b.mp4", 5)
    assert not list(tmp_path.iterdir())

from fractions import Fraction

import av
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


def with_sound(path, codec: str, seconds: list[float], rate: int = 16000, start: float = 0.0) -> None:
    """Writes a video whose frames have these times, with a tone of one second that begins at `start`."""
    with av.open(str(path), "w") as file:
        pictures = file.add_stream("mpeg4", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        pictures.codec_context.time_base = Fraction(1, 1000)
        sound = file.add_stream(codec, rate=rate)
        for second in seconds:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 100, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(second * 1000), Fraction(1, 1000)
            file.mux(pictures.encode(frame))
        file.mux(pictures.encode())
        tone = (8000 * np.sin(np.arange(rate) * 2 * np.pi * 440 / rate)).astype(np.int16)
        for first in range(0, rate, rate // 10):
            frame = av.AudioFrame.from_ndarray(tone[None, first : first + rate // 10], format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = rate, round(start * rate) + first, Fraction(1, rate)
            file.mux(sound.encode(frame))
        file.mux(sound.encode())


def copied(path, source: VideoFile):
    with VideoWriter(path, source.fps, source) as writer:
        for frame in source:
            writer.write(frame)
    return av.open(str(path))


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.mkv", "pcm_s16le"), ("a.avi", "mp3")])
def test_a_written_video_has_the_sound_and_is_h264(tmp_path, name, codec):
    with_sound(tmp_path / name, codec, [time / 25 for time in range(25)])
    with copied(tmp_path / "out.mp4", VideoFile(tmp_path / name)) as file:
        assert file.streams.video[0].codec_context.name == "h264"
        assert file.streams.audio[0].codec_context.codec.canonical_name == ("mp3" if codec == "mp3" else "aac")
        tone = np.concatenate([frame.to_ndarray()[0].astype(float) for frame in file.decode(audio=0)])
    spectrum = np.abs(np.fft.rfft(tone))
    assert abs(len(tone) / 16000 - 1) < 0.15
    assert abs(np.argmax(spectrum) * 16000 / len(tone) - 440) < 5


def heard(path) -> tuple[float, np.ndarray]:
    """Time of the first sound that is louder than a whisper, and the sound."""
    with av.open(str(path)) as file:
        frames = list(file.decode(audio=0))
    tone = np.concatenate([frame.to_ndarray()[0].astype(float) for frame in frames])
    loud = int(np.argmax(np.abs(tone) > 0.1 * np.abs(tone).max()))
    return frames[0].time + loud / frames[0].sample_rate, tone


@pytest.mark.parametrize("name", ["a.mkv", "a.ts"])
@pytest.mark.parametrize("codec", ["aac", "mp3"])
def test_a_recording_that_does_not_begin_at_zero(tmp_path, name, codec):
    with_sound(tmp_path / name, codec, [10 + time / 25 for time in range(25)], start=10.0)
    copied(tmp_path / "out.mp4", VideoFile(tmp_path / name)).close()
    begin, tone = heard(tmp_path / "out.mp4")
    assert abs(begin) < 0.1 and len(tone) > 12000


def test_pictures_that_begin_after_the_sound(tmp_path):
    with_sound(tmp_path / "a.mkv", "pcm_s16le", [0.5 + time / 25 for time in range(25)], start=0.0)
    copied(tmp_path / "out.mp4", VideoFile(tmp_path / "a.mkv")).close()
    _, tone = heard(tmp_path / "out.mp4")
    assert 0.4 < len(tone) / 16000 < 0.65  # what was before the pictures is left out


@pytest.mark.parametrize(
    ("name", "codec", "rate"), [("a.avi", "mp3", 8000), ("a.mkv", "pcm_s16le", 192_000), ("a.avi", "pcm_s16le", 4000)]
)
def test_sound_that_mp4_does_not_hold_never_stops_a_video(tmp_path, name, codec, rate):
    with_sound(tmp_path / name, codec, [time / 25 for time in range(25)], rate=rate)
    with copied(tmp_path / "out.mp4", VideoFile(tmp_path / name)) as file:
        assert file.streams.video[0].frames == 25
        assert [stream.codec_context.codec.canonical_name for stream in file.streams.audio] in (["aac"], ["mp3"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out.mp4"])


def test_frames_get_the_times_of_a_video_with_a_varying_rate(tmp_path):
    seconds = [0.0, 0.04, 0.5, 0.6, 2.0]
    with_sound(tmp_path / "a.mkv", "aac", seconds)
    with copied(tmp_path / "out.mp4", VideoFile(tmp_path / "a.mkv")) as file:
        np.testing.assert_allclose([frame.time for frame in file.decode(video=0)], seconds, atol=2e-3)


def test_damaged_sound_is_left_out(tmp_path):
    with_sound(tmp_path / "a.avi", "pcm_s16le", [time / 25 for time in range(25)])
    content = bytearray((tmp_path / "a.avi").read_bytes())
    start = content.index(b"01wb")  # the first packet of sound
    content[start : start + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.avi").write_bytes(content)
    file = VideoFile(tmp_path / "a.avi")
    copied(tmp_path / "out.mp4", file).close()
    assert VideoFile(tmp_path / "out.mp4").count() == file.count() > 0

"""Reads video files frame by frame with OpenCV and writes them with PyAV. A folder of pictures counts as a video."""

import contextlib
import errno
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jaxlm.support.errors import BadSample
from jaxlm.support.files import put_in_place, temporary_name
from jaxlm.support.pictures import PICTURES, decode_image, why_undecodable

# Silences FFmpeg's messages about damaged files: the exceptions of this module name the file.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # pyright: ignore[reportAttributeAccessIssue]

VIDEOS = (
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".wmv", ".mpg", ".mpeg", ".3gp", ".ts", ".mts", ".flv", ".ogv",
)  # fmt: skip


def is_video(path: Path) -> bool:
    """Whether a file's ending is that of a video, or it is a GIF of several pictures."""
    suffix = path.suffix.lower()
    if suffix in (".ts", ".mts") and path.is_file():  # or a program in TypeScript
        with path.open("rb") as file:
            return b"\x47" in file.read(5)  # a transport stream's first byte, or its fifth
    return suffix in VIDEOS or (suffix == ".gif" and path.is_file() and cv2.imcount(str(path)) > 1)


class VideoFile:
    """A video on disk. Iteration decodes it from the beginning and holds one frame in memory at a time.

    Attributes:
        path: a video file, or a folder of pictures in the order of their names.
        num_frames: number of frames that the file states; a damaged file holds fewer.
        fps: frames per second; the mean if the rate varies, 25 if the file does not state it.
        shape: (H, W) of the first frame.

    Raises:
        BadSample: if the file does not exist, or no frame of it can be decoded.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        if not self.path.exists():
            raise BadSample(f"{self.path} does not exist.")
        if self.path.is_dir():
            self.num_frames, self.fps = len(self.pictures()), 25.0
        else:
            capture = self._open()
            # Some containers state no number of frames or rate, or an impossible one.
            self.num_frames = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
            fps = capture.get(cv2.CAP_PROP_FPS)
            self.fps = float(fps) if np.isfinite(fps) and 0 < fps <= 1000 else 25.0
            capture.release()
        first = next(iter(self), None)
        if first is None:
            raise BadSample(f"{self.path} has no frame that can be decoded; replace or re-encode it.")
        self.shape = first.shape[:2]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields frames (H, W, 3) uint8 RGB until the file ends or cannot be decoded any further."""
        if self.path.is_dir():
            for picture in self.pictures():
                content = picture.read_bytes()
                image = decode_image(content)
                if image is None:
                    raise BadSample(f"{picture} {why_undecodable(content)}.")
                yield image
            return
        capture = self._open()
        try:
            while True:
                present, frame = capture.read()
                if not present:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()

    def count(self) -> int:
        """Number of frames that can be decoded, counted in one pass over the file; `num_frames` may be wrong."""
        if self.path.is_dir():
            return self.num_frames
        capture, frames = self._open(), 0
        while capture.grab():
            frames += 1
        capture.release()
        return frames

    def seconds(self) -> np.ndarray:
        """Times (T,) in seconds of the frames that can be decoded, also at a variable frame rate."""
        if self.path.is_dir():
            return np.arange(self.num_frames) / self.fps
        capture, times = self._open(), []
        while capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        capture.release()
        return np.array(times)

    def pictures(self) -> list[Path]:
        """Paths of the pictures of a folder, in the order of their names."""
        return sorted(path for path in self.path.iterdir() if path.suffix.lower() in PICTURES)

    def _open(self) -> cv2.VideoCapture:
        # As an absolute path, because FFmpeg takes what stands before a colon for a protocol.
        capture = cv2.VideoCapture(str(self.path.absolute()), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise BadSample(f"{self.path} is not a video that can be decoded; replace or re-encode it.")
        return capture


class VideoWriter:
    """Writes RGB frames as H.264 into `path` (.mp4), which browsers and notebooks play.

    The file appears when the context is left without an error. The same frames give the same bytes on every machine.

    Args:
        path: path of the video, ending in .mp4.
        fps: frames per second.
        source: the video that the frames show: they get the times of its frames, and the file its sound.
    """

    def __init__(self, path: str | Path, fps: float, source: VideoFile | None = None):
        self.path, self.fps, self._source = Path(path), fps, source
        self._partial = temporary_name(self.path)
        self._encoder: _Encoder | None = None
        self._shape, self._count = (0, 0), 0

    def __enter__(self) -> "VideoWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame (H, W, 3) uint8 RGB; an odd side is padded by one pixel, because the codec needs even sides.

        Raises:
            BadSample: if the frame has another size than the first.
            OSError: if the file cannot be written.
        """
        if self._count and frame.shape[:2] != self._shape:
            raise BadSample(
                f"Frame {self._count} has {frame.shape[1]}×{frame.shape[0]} pixels, but the first has "
                f"{self._shape[1]}×{self._shape[0]}: all frames of a video must have one size."
            )
        self._shape, self._count = frame.shape[:2], self._count + 1
        frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
        if self._encoder is None:
            self._encoder = _Encoder(self._partial, self.fps, frame.shape[:2], self._source)
        self._encoder.write(frame)

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if self._encoder is not None:
                self._encoder.close()
                if kind is None:
                    self._check()
                    put_in_place(self._partial, self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _check(self) -> None:
        """Raises OSError if a frame is missing from the file (full disk)."""
        try:
            whole = VideoFile(self._partial).count() == self._count
        except BadSample:
            whole = False
        if not whole:
            raise OSError(errno.ENOSPC, "the video could not be written whole", str(self.path))


_CLOCK = 90_000  # ticks of a second in the files that are written
_COPIED = ("aac", "mp3", "ac3", "opus")  # kinds of sound that MP4 holds; others are converted to AAC


class _Encoder:
    """An MP4 file that PyAV writes: a stream of pictures and, if the source has sound, one of sound."""

    def __init__(self, path: Path, fps: float, shape: tuple[int, ...], source: VideoFile | None):
        import av  # what writes no video starts faster without it

        self._closing = contextlib.ExitStack()
        with contextlib.ExitStack() as failed:
            failed.push(self._closing)
            self._file: Any = av.open(str(path.absolute()), "w", options={"movflags": "faststart"})
            self._closing.callback(self._file.close)
            # The bytes would depend on the number of threads. Players show BT.601 as it is meant if the file says so.
            options = {"crf": "18", "preset": "superfast", "threads": "1", "bf": "0", "colorspace": "smpte170m"}
            stream: Any = self._file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
            stream.height, stream.width = shape
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = Fraction(1, _CLOCK)
            self._pictures, self._fps, self._count, self._last = stream, fps, 0, -1
            self._times = source.seconds() if source else ()
            self._sound = self._packets(source, path) if source else iter(())
            self._packet = next(self._sound, None)
            failed.pop_all()

    def write(self, frame: np.ndarray) -> None:
        import av

        second = self._times[self._count] if self._count < len(self._times) else self._count / self._fps
        picture: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts = max(round(second * _CLOCK), self._last + 1)  # the times of a damaged file may stand still
        picture.time_base = Fraction(1, _CLOCK)
        self._count, self._last = self._count + 1, picture.pts
        self._file.mux(self._pictures.encode(picture))
        self._mux_sound(second)

    def close(self) -> None:
        """Finishes the file."""
        with self._closing:
            self._file.mux(self._pictures.encode())
            self._mux_sound(self._last / _CLOCK + 1 / self._fps)

    def _mux_sound(self, until: float) -> None:
        while self._packet is not None and float(self._packet.dts * self._packet.time_base) <= until:
            self._file.mux(self._packet)
            self._packet = next(self._sound, None)

    def _packets(self, source: VideoFile, path: Path) -> Iterator[Any]:
        """Adds a stream for the source's sound, and returns its packets."""
        import av

        sound = _sound_of(source.path, path) if source.path.is_file() else None
        if sound is None:
            return iter(())
        self._closing.callback(sound.unlink)
        file: Any = self._closing.enter_context(av.open(str(sound.absolute())))
        stream = self._file.add_stream_from_template(file.streams.audio[0])

        def packets() -> Iterator[Any]:
            for packet in file.demux(file.streams.audio[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    yield packet

        return packets()


def _sound_of(path: Path, beside: Path) -> Path | None:
    """A video's sound in a file of its own that MP4 can take, copied or, if it cannot be, converted to AAC.

    None for a video without sound, or where FFmpeg cannot do either. Times count from the first picture.
    """
    from av.error import FFmpegError

    target = temporary_name(beside.with_suffix(".m4a"))
    for convert in (False, True):
        try:
            if _write_sound(path, target, convert):
                return target
            break
        except (FFmpegError, ValueError):
            continue
    target.unlink(missing_ok=True)
    return None


def _write_sound(path: Path, target: Path, convert: bool) -> bool:
    """Writes a file with a video's sound; whether there is any.

    Raises:
        av.error.FFmpegError, ValueError: if that kind of sound cannot be written.
    """
    import av
    from av.error import InvalidDataError

    with av.open(str(path.absolute())) as file:
        if not file.streams.audio:
            return False
        sound: Any = file.streams.audio[0]
        if not convert and sound.codec_context.codec.canonical_name not in _COPIED:
            raise ValueError("a kind of sound that MP4 does not hold")
        pictures: Any = file.streams.video[0]
        start = float((pictures.start_time or 0) * pictures.time_base)
        with av.open(str(target.absolute()), "w", format="mp4") as out:
            if not convert:
                stream = out.add_stream_from_template(sound)
                for packet in file.demux(sound):
                    if packet.dts is None:
                        continue
                    shift = round(start / packet.time_base)
                    packet.pts, packet.dts = (packet.pts or packet.dts) - shift, packet.dts - shift
                    if packet.pts >= 0 or sound.start_time in (None, 0):  # an encoder's lead-in is before the start
                        packet.stream = stream
                        out.mux(packet)
                return True
            stream: Any = out.add_stream("aac", rate=min(max(sound.rate, 8000), 48_000))
            heard = 0
            with contextlib.suppress(InvalidDataError):  # damaged from there on
                for frame in file.decode(sound):
                    second = None if frame.time is None else frame.time - start
                    if second is None or second >= 0:
                        frame.pts = None if second is None else round(second / frame.time_base)
                        out.mux(stream.encode(frame))
                        heard += 1
            if heard:
                out.mux(stream.encode())
            return bool(heard)

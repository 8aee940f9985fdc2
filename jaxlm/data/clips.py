"""Video files, read frame by frame and written whole, with OpenCV. A folder of pictures counts as a video."""

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from jaxlm.data.readers import BadSample, decode_image

# What FFmpeg has to say of a damaged file is said better by our own sentences.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # pyright: ignore[reportAttributeAccessIssue]

PICTURES = (".jpg", ".jpeg", ".png", ".bmp")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


class VideoFile:
    """A video on disk; iterating decodes it from the beginning, one frame in memory at a time.

    Attributes:
        path: a video file, or a folder of pictures in the order of their names.
        num_frames: that the file promises; a damaged file holds fewer.
        fps: frames a second, the mean where the rate varies; 25 where the file does not say.
        shape: (H, W) of the first frame.

    Raises:
        BadSample: if there is no such file, or it is no video.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        if not self.path.exists():
            raise BadSample(f"{self.path} does not exist.")
        if self.path.is_dir():
            self.num_frames, self.fps = len(self._pictures()), 25.0
        else:
            capture = self._open()
            # Some containers promise nothing, or nonsense.
            self.num_frames = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
            fps = capture.get(cv2.CAP_PROP_FPS)
            self.fps = float(fps) if np.isfinite(fps) and 0 < fps <= 1000 else 25.0
            capture.release()
        first = next(iter(self), None)
        if first is None:
            raise BadSample(f"{self.path} has no frame that can be decoded; replace or re-encode it.")
        self.shape = first.shape[:2]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8 RGB, until the file ends or cannot be decoded any further."""
        if self.path.is_dir():
            for picture in self._pictures():
                image = decode_image(picture.read_bytes())
                if image is None:
                    raise BadSample(f"{picture} cannot be decoded; replace it or take it away.")
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

    def _pictures(self) -> list[Path]:
        return sorted(path for path in self.path.iterdir() if path.suffix.lower() in PICTURES)

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise BadSample(f"{self.path} is not a video that can be decoded: it is damaged or of an unknown format.")
        return capture


class VideoWriter:
    """Writes RGB frames as MPEG-4 into `path` (.mp4); the file appears when the context is left without an error.

    Args:
        path: of the video.
        fps: frames a second.
    """

    def __init__(self, path: str | Path, fps: float):
        self.path, self.fps = Path(path), fps
        self._partial = self.path.with_name(f".{self.path.stem}.partial{self.path.suffix}")
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> "VideoWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame (H, W, 3) uint8; an odd side is padded by one pixel, which the codec needs."""
        frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
        if self._writer is None:
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._partial), fourcc, self.fps, frame.shape[1::-1])
            if not self._writer.isOpened():
                raise OSError(f"{self.path} cannot be written.")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def __exit__(self, kind, error, traceback) -> None:
        if self._writer is not None:
            self._writer.release()
            if kind is None:
                os.replace(self._partial, self.path)
        self._partial.unlink(missing_ok=True)

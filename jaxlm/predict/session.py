"""One run of `jaxlm predict`: landmarks of pictures, videos and a camera, written as overlays, points and tables.

A picture gets an overlay (PNG) and the landmarks of each face (.pts), a video an overlay (MP4) and its landmarks (CSV).
`predictions.json` is about all files; `predictions.csv` about the pictures is a data set that `--data=own` reads.
"""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from jaxlm.data.samples import check_boxes
from jaxlm.data.video_files import VideoFile, VideoWriter
from jaxlm.predict import outputs
from jaxlm.predict.inputs import read_picture
from jaxlm.predict.predictor import Face, Predictor
from jaxlm.predict.video import LiveTracker, VideoPredictor
from jaxlm.schemes import get_scheme
from jaxlm.support.errors import BadSample
from jaxlm.support.files import write_atomically
from jaxlm.support.pictures import write_image
from jaxlm.support.progress import progress
from jaxlm.support.shards import ALL, Shard

__all__ = ["Face", "Predictor"]

_MOST_AT_ONCE = 200_000_000  # values of the pictures held in memory, 3 for each pixel


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


class _Picture(NamedTuple):
    path: Path
    stem: str
    image: np.ndarray
    boxes: np.ndarray | None


class Session:
    """One run of the program: finds faces, writes the results and collects an entry for each file.

    Args:
        predictor: finds the faces of pictures and of streams.
        out: folder of the results.
        overlays: whether pictures and videos with landmarks are written.
        upright: whether pictures are turned as their EXIF says.
    """

    def __init__(self, predictor: Predictor, out: Path, *, overlays: bool = True, upright: bool = True):
        self._predictor, self._out, self._overlays, self._upright = predictor, out, overlays, upright
        self.scheme = get_scheme(predictor.config.scheme)
        self.entries: list[dict[str, Any]] = []

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if "error" in entry]

    def fail(self, file: str, error: Exception) -> None:
        """Reports a file that cannot be worked on, and goes on."""
        self.entries.append({"file": file, "error": str(error)})
        print(f"\nError: {error}", file=sys.stderr)

    def pictures(self, files: list[tuple[Path, str]], boxes: dict[str, np.ndarray] | None, batch_size: int) -> None:
        """Finds the faces of pictures and writes them; reports a picture that fails and continues with the others.

        Args:
            files: path of each picture, and the name of its results without ending.
            boxes: path or file name of a picture -> boxes (N, 4) of its faces; the faces are detected where it is None.
            batch_size: number of pictures at a time.
        """
        started, seen = time.perf_counter(), len(self.entries)
        held: list[_Picture] = []
        names = Counter(path.name for path, _ in files)
        bar = progress(total=len(files), desc="pictures", unit="picture")
        for path, stem in files:
            try:
                image = read_picture(path, upright=self._upright)
                own = None if boxes is None else _boxes_of(path, image, boxes, names)
                held.append(_Picture(path, stem, image, own))
            except (BadSample, OSError) as error:
                self.fail(str(path.resolve()), error)
                bar.update()
            if len(held) == batch_size or sum(picture.image.size for picture in held) > _MOST_AT_ONCE:
                self._look(held)
                bar.update(len(held))
                held = []
                bar.set_postfix_str(f"{sum(len(entry.get('faces', ())) for entry in self.entries)} faces")
        self._look(held)
        bar.update(len(held))
        bar.close()
        found = [entry["faces"] for entry in self.entries[seen:] if "faces" in entry]
        seconds, bad = time.perf_counter() - started, len(files) - len(found)
        print(
            f"{_counted(len(files), 'picture')}, {len(files) / seconds:.1f} a second: "
            f"{_counted(sum(map(len, found)), 'face')} in "
            f"{sum(map(bool, found))} of them, {sum(not faces for faces in found)} without a face, {bad} failed"
        )
        if boxes is None and found and not any(found):
            print("No face was found. Try --detector=whole for pictures of one face, another detector, or --boxes.")

    def _look(self, held: "list[_Picture]") -> None:
        try:
            many = self._predictor.many([picture.image for picture in held], [picture.boxes for picture in held])
        except (ValueError, MemoryError, cv2.error) as error:
            if len(held) == 1:
                reason = " ".join(str(error).split())[:200]
                return self.fail(
                    str(held[0].path.resolve()), BadSample(f"{held[0].path} cannot be worked on: {reason}")
                )
            for picture in held:  # to find the one that fails
                self._look([picture])
            return None
        for picture, faces in zip(held, many, strict=True):
            self._write_picture(picture.path, picture.stem, picture.image, faces)
        return None

    def _write_picture(self, path: Path, stem: str, image: np.ndarray, faces: list[Face]) -> None:
        self.entries.append(
            {
                "file": str(path.resolve()),
                "name": stem,
                "width": image.shape[1],
                "height": image.shape[0],
                "faces": [face.to_dict() for face in faces],
            }
        )
        for number, face in enumerate(faces):
            outputs.write_points(self._out / f"{stem}_{number}.pts", face.landmarks)
        if self._overlays:
            drawn = outputs.overlay(image, [face.landmarks for face in faces], self.scheme)
            write_image(self._out / f"{stem}_landmarks.png", drawn)

    def videos(self, files: list[tuple[Path, str]], follow: VideoPredictor, boxes: np.ndarray | None) -> None:
        """Tracks the faces of videos and writes them; reports a video that fails and continues with the others.

        Args:
            files: path of each video, and the name of its results without ending.
            follow: tracks the faces.
            boxes: (T, 4) boxes of one face in every frame; the faces are found where it is None.
        """
        for path, stem in files:
            try:
                started, file = time.perf_counter(), VideoFile(path)
                found = follow(file, boxes)
                seconds = time.perf_counter() - started
                table = self._out / f"{stem}.csv"
                write_atomically(table, outputs.video_csv(found.tracks, file.seconds()))
                if self._overlays:
                    outputs.write_video(self._out / f"{stem}_landmarks.mp4", file, found.tracks, self.scheme)
            except (BadSample, cv2.error) as error:
                self.fail(str(path.resolve()), error)
                continue
            shown = np.array([np.isfinite(track.score).any(axis=1) for track in found.tracks]).reshape(-1, found.frames)
            self.entries.append(
                {
                    "file": str(path.resolve()),
                    "frames": found.frames,
                    "fps": file.fps,
                    "tracks": len(shown),
                    "table": table.name,
                }
            )
            print(
                f"{path}: {found.frames} frames, {int(shown.any(axis=0).sum())} with a face, {len(shown)} faces, "
                f"method {follow.method}; {found.frames / seconds:.0f} frames a second with decoding and detection"
            )

    def camera(self, index: int, seconds: float) -> None:
        """Tracks the largest face in a camera's stream for a number of seconds, or until the user interrupts."""
        capture = cv2.VideoCapture(index)
        try:
            if not capture.isOpened():
                raise BadSample(f"Camera {index} cannot be opened; 0 is usually the first one.")
            fps = capture.get(cv2.CAP_PROP_FPS)
            frames = _frames_for(capture, seconds)
            self.stream(f"camera{index}", frames, fps if 0 < fps <= 1000 else 25.0)
        except BadSample as error:
            self.fail(str(index), error)
        finally:
            capture.release()

    def stream(self, stem: str, frames: Iterator[np.ndarray], fps: float) -> None:
        """Tracks the largest face in a stream of frames; writes `<stem>.csv` and `<stem>_landmarks.mp4`.

        The column "second" of the CSV is the time since the start by the clock.

        Raises:
            BadSample: if the stream has no frame.
        """
        tracker, started, faces, times = LiveTracker(self._predictor), time.perf_counter(), [], []
        with contextlib.ExitStack() as stack:
            path = self._out / f"{stem}_landmarks.mp4"
            writer = stack.enter_context(VideoWriter(path, fps)) if self._overlays else None
            try:
                for frame in progress(frames, desc=stem, unit="frame"):
                    times.append(time.perf_counter() - started)
                    faces.append(tracker(frame))
                    if writer is not None:
                        landmarks = [] if faces[-1] is None else [faces[-1].landmarks]
                        writer.write(outputs.overlay(frame, landmarks, self.scheme, 1280))
            except KeyboardInterrupt:
                print("\nInterrupted; the frames so far are written.")
        if not faces:
            raise BadSample(f"{stem} gave no frame.")
        track = outputs.track_of_faces(faces, self.scheme.num_landmarks)
        write_atomically(self._out / f"{stem}.csv", outputs.video_csv([track], np.array(times)))
        self.entries.append({"file": stem, "frames": len(faces), "fps": fps, "tracks": 1, "table": f"{stem}.csv"})
        print(f"{stem}: {len(faces)} frames, {len(faces) / (time.perf_counter() - started):.0f} a second")

    def write(self, model: str, shard: Shard = ALL, order: Sequence[str] = ()) -> None:
        """Writes the tables of all files so far, see `outputs.write_tables`."""
        outputs.write_tables(self._out, model, self.scheme, self.entries, shard, order, upright=self._upright)


def _boxes_of(path: Path, image: np.ndarray, boxes: dict[str, np.ndarray], names: Counter[str]) -> np.ndarray:
    """Boxes (N, 4) of a picture, listed by its path, or by its file name if no other picture has that name.

    Raises:
        BadSample: if the picture has no box, its name is ambiguous, or a box does not fit.
    """
    keys = [str(path), str(path.resolve()), *([path.name] if names[path.name] == 1 else [])]
    own = next((boxes[key] for key in keys if key in boxes), None)
    if own is None and path.name in boxes:
        raise BadSample(f"{path}: several pictures are called {path.name}; name them with their folders in --boxes.")
    if own is None:
        raise BadSample(f"{path} has no line in the file of --boxes; add one for each face, or leave --boxes out.")
    return check_boxes(own, image.shape, str(path))


def _frames_for(capture: cv2.VideoCapture, seconds: float) -> Iterator[np.ndarray]:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        present, frame = capture.read()
        if not present:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

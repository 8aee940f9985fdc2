"""Landmarks of faces in pictures, folders, videos and from a camera.

    python -m jaxlm.predict portrait.jpg holiday/ clip.mp4 --out=out       # with the package's own small model
    python -m jaxlm.predict --workdir=runs/ldeq portrait.jpg --out=out     # with a trained or an exported one
    python -m jaxlm.predict 0 --seconds=20                                 # a camera by its number

In Python:

    from jaxlm.predict import Predictor
    for face in Predictor.load()(image):                                   # RGB uint8
        face.landmarks, face.score

Written are an overlay of each picture (PNG) or video (MP4), the points of each face of a picture (.pts), those of a
video (.csv), and of everything together `predictions.json` and, for pictures, `predictions.csv`, which is a data set
that `--data=own` reads. Pictures are turned upright as their EXIF says, and landmarks are those of the upright picture;
data sets look at the stored pixels, so turn such pictures before their predictions become one.
"""

import contextlib
import csv
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from absl import app, flags

from jaxlm import detect, prediction_files
from jaxlm.data.video_builder import load_boxes
from jaxlm.data.video_files import PICTURES, VIDEOS, VideoFile, VideoWriter
from jaxlm.predict_video import LiveTracker, VideoPredictor
from jaxlm.predictor import Face, Predictor
from jaxlm.schemes import get_scheme
from jaxlm.support.errors import BadSample
from jaxlm.support.files import write_atomically
from jaxlm.support.pictures import decode_image, write_image
from jaxlm.support.program import make_folder, one_sentence, parse_flags, quiet_logs
from jaxlm.support.progress import progress

__all__ = ["Face", "Predictor"]

_SMALLEST_SIDE = 16  # pixels
_MOST_AT_ONCE = 200_000_000  # numbers of pictures in memory


class Inputs(NamedTuple):
    """What the command line names; every file with the name of its results, without ending."""

    pictures: list[tuple[Path, str]]
    videos: list[tuple[Path, str]]
    cameras: list[int]


def find_inputs(names: list[str], out: Path | None = None) -> Inputs:
    """Files, all files within folders but those below `out`, and cameras.

    Raises:
        ValueError: if a file does not exist or is neither a picture nor a video, or a folder holds none.
    """
    inputs, used = Inputs([], [], []), {"predictions", *(f"camera{name}" for name in names)}
    for name in names:
        path = Path(name).expanduser()
        if name.isdigit() and not path.exists():
            inputs.cameras.append(int(name))
            continue
        if not path.exists():
            raise ValueError(f"{path} does not exist.")
        files = [path]
        if path.is_dir():
            found = (file for file in path.rglob("*") if file.suffix.lower() in PICTURES + VIDEOS and file.is_file())
            own = None if out is None else out.resolve()
            files = sorted(file for file in found if own is None or own not in file.resolve().parents)
            if not files:
                raise ValueError(f"{path} holds no picture and no video ({', '.join(PICTURES + VIDEOS)}).")
        for file in files:
            kind = inputs.videos if file.suffix.lower() in VIDEOS else inputs.pictures
            if file.suffix.lower() not in PICTURES + VIDEOS:
                raise ValueError(f"{file} is neither a picture nor a video ({', '.join(PICTURES + VIDEOS)}).")
            stem = file.relative_to(path).with_suffix("").as_posix().replace("/", "_") if path.is_dir() else file.stem
            stem = next(
                s for s in itertools.chain([stem], (f"{stem}_{n}" for n in itertools.count(2))) if s not in used
            )
            used.add(stem)
            kind.append((file, stem))
    return inputs


def read_boxes(path: Path) -> dict[str, np.ndarray]:
    """Boxes (N, 4) by their picture as it is written in a CSV file with the columns image, left, top, right, bottom.

    Raises:
        ValueError: naming the line that cannot be read.
    """
    columns = ("left", "top", "right", "bottom")
    boxes: dict[str, list[list[float]]] = {}
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(line[:10_000] for line in file)
        missing = [name for name in ("image", *columns) if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}, line 1: the header lacks {', '.join(missing)}.")
        for row in reader:
            try:
                boxes.setdefault(row["image"].strip(), []).append([float(row[name]) for name in columns])
            except (TypeError, ValueError):
                raise ValueError(f"{path}, line {reader.line_num}: left, top, right, bottom must be numbers.") from None
    return {name: np.array(rows) for name, rows in boxes.items()}


class _Picture(NamedTuple):
    path: Path
    stem: str
    image: np.ndarray
    boxes: np.ndarray | None


class Session:
    """One run of the program: what was found, and where it goes.

    Args:
        predictor: for pictures.
        out: folder of the results.
        overlays: whether pictures and videos with landmarks are written.
    """

    def __init__(self, predictor: Predictor, out: Path, *, overlays: bool = True):
        self._predictor, self._out, self._overlays = predictor, out, overlays
        self.scheme = get_scheme(predictor.config.scheme)
        self.entries: list[dict[str, Any]] = []

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if "error" in entry]

    def _fail(self, path: Path, error: Exception) -> None:
        self.entries.append({"file": str(path), "error": str(error)})
        print(f"\nError: {error}", file=sys.stderr)

    def pictures(self, files: list[tuple[Path, str]], boxes: dict[str, np.ndarray] | None, batch_size: int) -> None:
        """Looks at pictures, some at a time; one that fails is told of, and the rest goes on."""
        started, seen = time.perf_counter(), len(self.entries)
        held: list[_Picture] = []
        names = Counter(path.name for path, _ in files)
        bar = progress(files, desc="pictures", unit="picture")
        for path, stem in bar:
            try:
                image = _read_picture(path)
                own = None if boxes is None else _boxes_of(path, image, boxes, names)
                held.append(_Picture(path, stem, image, own))
            except (BadSample, OSError) as error:
                self._fail(path, error)
            if len(held) == batch_size or sum(picture.image.size for picture in held) > _MOST_AT_ONCE:
                self._look(held)
                held = []
                bar.set_postfix_str(f"{sum(len(entry.get('faces', ())) for entry in self.entries)} faces")
        self._look(held)
        found = [entry["faces"] for entry in self.entries[seen:] if "faces" in entry]
        seconds, bad = time.perf_counter() - started, len(files) - len(found)
        print(
            f"{len(files)} pictures, {len(files) / seconds:.1f} a second: {sum(map(len, found))} faces in "
            f"{sum(map(bool, found))} of them, {sum(not faces for faces in found)} without a face, {bad} failed"
        )

    def _look(self, held: "list[_Picture]") -> None:
        try:
            many = self._predictor.many([picture.image for picture in held], [picture.boxes for picture in held])
        except (ValueError, MemoryError, cv2.error) as error:
            if len(held) == 1:
                reason = " ".join(str(error).split())[:200]
                return self._fail(held[0].path, BadSample(f"{held[0].path} cannot be worked on: {reason}"))
            for picture in held:  # one of them is to blame
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
                "faces": [_entry(face) for face in faces],
            }
        )
        for number, face in enumerate(faces):
            prediction_files.write_points(self._out / f"{stem}_{number}.pts", face.landmarks)
        if self._overlays:
            drawn = prediction_files.overlay(image, [face.landmarks for face in faces], self.scheme)
            write_image(self._out / f"{stem}_landmarks.png", drawn)

    def videos(self, files: list[tuple[Path, str]], follow: VideoPredictor, boxes: np.ndarray | None) -> None:
        """Follows the faces of videos; one that fails is told of, and the rest goes on."""
        for path, stem in files:
            try:
                started, file = time.perf_counter(), VideoFile(path)
                found = follow(file, boxes)
                seconds = time.perf_counter() - started
                table = self._out / f"{stem}.csv"
                write_atomically(table, prediction_files.video_csv(found.tracks, file.seconds()))
                if self._overlays:
                    prediction_files.write_video(self._out / f"{stem}_landmarks.mp4", file, found.tracks, self.scheme)
            except (BadSample, cv2.error) as error:
                self._fail(path, error)
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
        """Follows the largest face in front of a camera until the time is over or the user interrupts."""
        capture = cv2.VideoCapture(index)
        try:
            if not capture.isOpened():
                raise BadSample(f"Camera {index} cannot be opened; 0 is usually the first one.")
            fps = capture.get(cv2.CAP_PROP_FPS)
            frames = _frames_for(capture, seconds)
            self.stream(f"camera{index}", frames, fps if 0 < fps <= 1000 else 25.0)
        except BadSample as error:
            self._fail(Path(str(index)), error)
        finally:
            capture.release()

    def stream(self, stem: str, frames: Iterator[np.ndarray], fps: float) -> None:
        """Follows the largest face of frames as they come; writes `<stem>.csv`, whose seconds are the clock's, and
        `<stem>_landmarks.mp4`.

        Raises:
            BadSample: if there is no frame.
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
                        writer.write(prediction_files.overlay(frame, landmarks, self.scheme, 1280))
            except KeyboardInterrupt:
                print("\nInterrupted; what was seen so far is written.")
        if not faces:
            raise BadSample(f"{stem} gave no frame.")
        track = prediction_files.track_of_faces(faces, self.scheme.num_landmarks)
        write_atomically(self._out / f"{stem}.csv", prediction_files.video_csv([track], np.array(times)))
        self.entries.append({"file": stem, "frames": len(faces), "fps": fps, "tracks": 1, "table": f"{stem}.csv"})
        print(f"{stem}: {len(faces)} frames, {len(faces) / (time.perf_counter() - started):.0f} a second")

    def write(self, model: str) -> None:
        """Writes the tables of everything so far."""
        prediction_files.write_tables(self._out, model, self.scheme, self.entries)


def _entry(face: Face) -> dict[str, Any]:
    numbers = {"box": face.box, "landmarks": face.landmarks, "score": face.score}
    if face.params is not None:
        numbers["params"] = face.params
    return {name: np.round(np.asarray(value, np.float64), 4).tolist() for name, value in numbers.items()}


def _read_picture(path: Path) -> np.ndarray:
    image = decode_image(path.read_bytes(), upright=True)
    if image is None:
        raise BadSample(f"{path} is not a picture that can be decoded: damaged, of another kind, or far too large.")
    if min(image.shape[:2]) < _SMALLEST_SIDE:
        raise BadSample(
            f"{path} has {image.shape[1]}×{image.shape[0]} pixels, which is too small for a face; "
            f"the least is {_SMALLEST_SIDE} on each side."
        )
    return image


def _boxes_of(path: Path, image: np.ndarray, boxes: dict[str, np.ndarray], names: Counter[str]) -> np.ndarray:
    """Those of the whole path, or of the name alone where it is that of one picture."""
    keys = [str(path), str(path.resolve()), *([path.name] if names[path.name] == 1 else [])]
    own = next((boxes[key] for key in keys if key in boxes), None)
    if own is None and path.name in boxes:
        raise BadSample(f"{path}: several pictures are called {path.name}; name them with their folders in --boxes.")
    if own is None:
        raise BadSample(f"{path} has no line in the file of --boxes; add one for each face, or leave --boxes out.")
    try:
        return detect.check_boxes(own, image)
    except ValueError as error:
        raise BadSample(f"{path}: {error}") from None


def _frames_for(capture: cv2.VideoCapture, seconds: float) -> Iterator[np.ndarray]:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        present, frame = capture.read()
        if not present:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def main(argv: list[str]) -> None:
    quiet_logs()
    with one_sentence():
        if len(argv) < 2:
            raise ValueError("Name pictures, folders, videos or a camera: python -m jaxlm.predict portrait.jpg")
        out = Path(OUT.value).expanduser()
        inputs, out = find_inputs(argv[1:], out), make_folder(out)
        boxes_file = None if BOXES.value is None else Path(BOXES.value).expanduser()
        for_video = boxes_file is not None and boxes_file.suffix == ".npy"
        if for_video and (len(inputs.videos) != 1 or inputs.pictures):
            raise ValueError("--boxes=….npy goes with a single video, --boxes=….csv with pictures.")
        still_boxes = read_boxes(boxes_file) if boxes_file is not None and not for_video else None
        predictor = Predictor.load(
            WORKDIR.value,
            detector=detect.make_detector(DETECTOR.value, yunet=YUNET.value),
            refine=REFINE.value,
            batch_size=BATCH_SIZE.value,
        )
        follow = VideoPredictor(predictor, max_faces=FACES.value, method=METHOD.value) if inputs.videos else None
        session = Session(predictor, out, overlays=OVERLAYS.value)
        print(f"{predictor.model.name} on {jax.devices()[0].device_kind}")
        try:
            if inputs.pictures:
                session.pictures(inputs.pictures, still_boxes, BATCH_SIZE.value)
            if follow is not None:
                session.videos(inputs.videos, follow, load_boxes(boxes_file) if boxes_file and for_video else None)
            for index in inputs.cameras:
                session.camera(index, SECONDS.value)
        finally:
            session.write(predictor.model.name)
        print(f"written: {out}")
        if session.failed:
            raise ValueError(f"{len(session.failed)} of {len(session.entries)} failed; predictions.json says why.")


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string(
        "workdir", None, "Folder that train.py or jaxlm.export wrote, or an exported file; the package's own model."
    )
    OUT = flags.DEFINE_string("out", "predicted", "Folder of the results.")
    DETECTOR = flags.DEFINE_string("detector", "haar", f"One of {', '.join(detect.DETECTORS)}.")
    YUNET = flags.DEFINE_string("yunet", None, "YuNet's ONNX file, for --detector=yunet.")
    BOXES = flags.DEFINE_string(
        "boxes", None, "A .csv file with image,left,top,right,bottom, or for a video a .npy file (T, 4)."
    )
    REFINE = flags.DEFINE_integer(
        "refine", None, "How often the crop is taken again around the landmarks; twice for rough boxes."
    )
    METHOD = flags.DEFINE_string("method", None, "Of videos: rwr, frame, or either with a filter, as in frame+ema:0.7.")
    FACES = flags.DEFINE_integer("faces", 4, "Most faces of a video at a time.", lower_bound=1)
    BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Faces at a time.", lower_bound=1)
    SECONDS = flags.DEFINE_float("seconds", 3600.0, "Of a camera; Ctrl-C ends it earlier.")
    OVERLAYS = flags.DEFINE_bool("overlays", True, "Whether to write pictures and videos with landmarks.")
    app.run(main, flags_parser=parse_flags)

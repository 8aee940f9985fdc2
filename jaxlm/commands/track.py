"""FIXME A user's own clip: boxes, stable landmarks, and the video with them drawn."""

import csv
import io
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import app, flags

from jaxlm import metrics
from jaxlm.config import Config
from jaxlm.data.video_batches import Video
from jaxlm.data.video_builder import load_boxes
from jaxlm.data.video_files import VideoFile
from jaxlm.evaluation import video_report
from jaxlm.predict.detectors import HaarDetector
from jaxlm.predict.face_boxes import Landmarker, boxes_of_file, find_boxes, make_landmarker, video_of_boxes
from jaxlm.predict.follower import Follower, Track
from jaxlm.predict.model import load
from jaxlm.schemes import get_scheme
from jaxlm.support.errors import BadSample
from jaxlm.support.files import write_atomically
from jaxlm.support.program import one_sentence, parse_flags, quiet_logs


class Tracked(NamedTuple):
    """What was found in one clip.

    Attributes:
        video: the file and its boxes.
        tracks: method -> landmarks and scores.
    """

    video: Video
    tracks: dict[str, Track]


def track_clip(follower: Follower, landmarker: Landmarker, file: VideoFile, boxes: np.ndarray | None) -> Tracked:
    """Landmarks of a clip by every method of the follower.

    Args:
        follower: with the methods.
        landmarker: of the same model, for the boxes.
        file: the clip.
        boxes: (T, 4), or None: found here.

    Raises:
        BadSample: if there is no face in the whole clip, or the boxes are not those of its frames.
    """
    if boxes is None:
        boxes = find_boxes(file, HaarDetector(), landmarker, follower.config.video.min_iou)
    boxes = boxes_of_file(file, boxes)
    if not np.isfinite(boxes).all(axis=1).any():
        raise BadSample(f"{file.path}: no face was found in any of {len(boxes)} frames; give its boxes with --boxes.")
    video = video_of_boxes(file, boxes, get_scheme(follower.config.scheme).num_landmarks)
    return Tracked(video, {name: found[0] for name, found in follower([video]).items()})


def landmarks_csv(track: Track, seconds: np.ndarray) -> str:
    """frame,second,score,x0,y0,…: a line for each frame with a face; 0-based pixels of the video.

    Args:
        track: landmarks of T frames.
        seconds: (T,), time of each frame.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"{axis}{number}" for number in range(track.landmarks.shape[1]) for axis in "xy"]
    writer.writerow(["frame", "second", "score", *names])
    for frame in np.flatnonzero(np.isfinite(track.landmarks).all(axis=(1, 2))):
        values = [f"{value:.3f}" for value in track.landmarks[frame].ravel()]
        writer.writerow([frame, f"{seconds[frame]:.3f}", f"{track.score[frame].mean():.4f}", *values])
    return text.getvalue()


def write_outputs(folder: Path, tracked: Tracked, config: Config) -> list[Path]:
    """Writes `<clip>_landmarks.mp4` and `.csv` of the last method, and all methods side by side; returns the files."""
    scheme, name = get_scheme(config.scheme), tracked.video.file.path.stem
    *_, last = tracked.tracks
    jitter = {method: 100 * metrics.jitter(track.landmarks) for method, track in tracked.tracks.items()}
    captions = {method: f"{method}: jitter {value:.3f} %" for method, value in jitter.items()}
    paths = [folder / f"{name}_landmarks.mp4", folder / f"{name}_landmarks.csv"]
    video_report.write_clip(paths[0], tracked.video, {last: tracked.tracks[last]}, scheme, captions={last: ""})
    write_atomically(paths[1], landmarks_csv(tracked.tracks[last], tracked.video.file.seconds()))
    if len(tracked.tracks) > 1:
        paths.append(folder / f"{name}_compared.mp4")
        video_report.write_clip(paths[-1], tracked.video, tracked.tracks, scheme, captions=captions)
    return paths


def main(argv: list[str]) -> None:
    quiet_logs()
    with one_sentence():
        paths = [Path(path).expanduser() for path in argv[1:]]
        if not paths:
            raise ValueError(
                "Name at least one video: python -m jaxlm.predict.face_boxes --workdir=runs/quickstart clip.mp4"
            )
        if len({path.stem for path in paths}) < len(paths):
            raise ValueError("Two videos of one name would write the same files; track them one by one.")
        if BOXES.value is not None and len(paths) > 1:
            raise ValueError("--boxes goes with a single video.")
        boxes = None if BOXES.value is None else load_boxes(Path(BOXES.value))
        folder = Path(OUT.value).expanduser()
        model = load(WORKDIR.value, step=STEP.value)
        if model.variables is None:
            raise ValueError(f"{WORKDIR.value} is an exported graph, which has no state to track with; use a workdir.")
        config, landmarker = model.config, make_landmarker(model)
        follower = Follower(model.variables, config, METHODS.value, batch_size=1)
        folder.mkdir(parents=True, exist_ok=True)
        failed = []
        for path in paths:
            try:
                _track_and_report(path, boxes, follower, landmarker, folder, config)
            except BadSample as error:
                failed.append(str(path))
                print(f"Error: {error}", file=sys.stderr)
        if failed:
            raise ValueError(f"{len(failed)} of {len(paths)} videos could not be tracked: {', '.join(failed)}.")


def _track_and_report(path: Path, boxes, follower: Follower, landmarker: Landmarker, folder: Path, config: Config):
    file = VideoFile(path)
    tracked = track_clip(follower, landmarker, file, boxes)
    frames = len(tracked.video)
    if frames < file.num_frames:
        print(f"{file.path} promises {file.num_frames} frames but holds {frames} that can be decoded.")
    lost = frames - int(np.isfinite(tracked.video.boxes).all(axis=1).sum())
    height, width = file.shape
    print(f"\n{file.path}: {frames} frames of {width}×{height}, {lost} without a face")
    print(f"{'method':<22}{'jitter %':>9}")
    for method, track in tracked.tracks.items():
        print(f"{method:<22}{100 * metrics.jitter(track.landmarks):>9.4f}")
    written = write_outputs(folder, tracked, config)
    print(f"written: {written[0]}{''.join(f', {other.name}' for other in written[1:])}")


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder that train.py wrote.", required=True)
    OUT = flags.DEFINE_string("out", "tracked", "Folder of the results.")
    METHODS = flags.DEFINE_multi_string(
        "method", ["frame", "rwr"], "tracker or tracker+filter; may be given repeatedly."
    )
    STEP = flags.DEFINE_string("step", "last", "Checkpoint: last, best or its step.")
    BOXES = flags.DEFINE_string("boxes", None, "A .npy file (T, 4) of x1 y1 x2 y2 in pixels; found where not given.")
    app.run(main, flags_parser=parse_flags)

"""Finds the landmarks of a face on clips by several methods, and shows them side by side.

    jaxlm track --workdir=runs/quickstart clip.mp4 --out=tracked

Writes the clip with the landmarks of the last method, its landmarks as CSV, and all methods side by side. `jaxlm
predict` finds several faces, by one method.
"""

import dataclasses
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro

from jaxlm import metrics
from jaxlm.commands.options import Inputs
from jaxlm.config import Config
from jaxlm.data.readers.arrays import read_boxes
from jaxlm.data.video_batches import Video
from jaxlm.data.video_files import VideoFile
from jaxlm.evaluation import video_report
from jaxlm.predict import outputs
from jaxlm.predict.detectors import HaarDetector
from jaxlm.predict.face_boxes import Landmarker, boxes_of_file, find_boxes, make_landmarker, video_of_boxes
from jaxlm.predict.follower import Follower, Track
from jaxlm.predict.model import load_model
from jaxlm.schemes import get_scheme
from jaxlm.support.errors import BadSample
from jaxlm.support.files import write_atomically
from jaxlm.support.program import check_names, make_folder
from jaxlm.support.shards import parse_shard


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


def write_outputs(folder: Path, tracked: Tracked, config: Config) -> list[Path]:
    """Writes `<clip>_landmarks.mp4` and `.csv` of the last method, and all methods side by side; returns the files."""
    scheme, name = get_scheme(config.scheme), tracked.video.file.path.stem
    *_, last = tracked.tracks
    jitter = {method: 100 * metrics.jitter(track.landmarks) for method, track in tracked.tracks.items()}
    captions = {method: f"{method}: jitter {value:.3f} %" for method, value in jitter.items()}
    paths = [folder / f"{name}_landmarks.mp4", folder / f"{name}_landmarks.csv"]
    video_report.write_clip(paths[0], tracked.video, {last: tracked.tracks[last]}, scheme, captions={last: ""})
    write_atomically(paths[1], outputs.video_csv([tracked.tracks[last]], tracked.video.file.seconds()))
    if len(tracked.tracks) > 1:
        paths.append(folder / f"{name}_compared.mp4")
        video_report.write_clip(paths[-1], tracked.video, tracked.tracks, scheme, captions=captions)
    return paths


@dataclasses.dataclass(frozen=True)
class Options:
    videos: Inputs
    """Videos."""
    workdir: str
    """Folder that `jaxlm train` wrote."""
    out: str = "tracked"
    """Folder of the results."""
    method: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """tracker or tracker+filter; may be given repeatedly. frame and rwr without it."""
    step: str = "last"
    """Checkpoint: last, best or its step."""
    boxes: str | None = None
    """A .npy file (T, 4) of x1 y1 x2 y2 in pixels; found without it."""
    shard: str | None = None
    """i/n: every n-th video from the i-th, on one of n machines."""


def main(options: Options) -> None:
    """Tracks every video; one that fails is named, and the rest goes on."""
    paths = [Path(path).expanduser() for path in options.videos]
    check_names(paths, "video")
    if options.boxes is not None and len(paths) > 1:
        raise ValueError("--boxes goes with a single video.")
    boxes = None if options.boxes is None else read_boxes(Path(options.boxes).expanduser())
    model = load_model(options.workdir, step=options.step)
    if model.variables is None:
        raise ValueError(f"{options.workdir} is an exported graph, which has no state to track with; use a workdir.")
    landmarker = make_landmarker(model)
    follower = Follower(model.variables, model.config, options.method or ("frame", "rwr"), batch_size=1)
    folder, failed = make_folder(options.out), []
    for path in parse_shard(options.shard).of(paths):
        try:
            _track_and_report(path, boxes, follower, landmarker, folder, model.config)
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

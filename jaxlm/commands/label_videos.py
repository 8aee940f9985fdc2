"""Labels videos by an ensemble of trained models, section 5.2 of Micaelli et al., CVPR 2023.

    jaxlm label-videos --workdirs runs/a runs/b runs/c --out=labelled clip1.mp4 clip2.mp4 …

The heatmaps of all models are averaged frame by frame; an ensemble hardly flickers, so nothing is filtered. `--out` has
WFLW-V's layout, with a further folder `variance/`, the videos' variances in `difficulties.json`, and lists of its hard
and easy videos.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxlm.commands.options import Inputs
from jaxlm.data.sets.wflw import WflwV
from jaxlm.data.video_builder import write_labels
from jaxlm.data.video_files import VideoFile
from jaxlm.predict.detectors import HaarDetector
from jaxlm.predict.ensemble import Ensemble, Labels
from jaxlm.predict.face_boxes import find_boxes
from jaxlm.support.errors import BadSample
from jaxlm.support.files import put_in_place, temporary_name, write_atomically
from jaxlm.support.program import split_commas
from jaxlm.support.progress import progress
from jaxlm.support.shards import parse_shard, write_part


def read_left_out(path: Path | None, names: Sequence[str]) -> dict[str, list[tuple[str, int, int]]]:
    """Which models are left out of which frames: video's key -> (model, first frame, last frame).

    Args:
        path: JSON like {"clip1": [{"models": ["a"], "frames": [10, 25]}]}; None for none.
        names: of the models.

    Raises:
        ValueError: for another form, or an unknown model.
    """
    if path is None:
        return {}
    try:
        given = json.loads(path.read_text())
        entries: dict[str, list[tuple[str, int, int]]] = {}
        for key, rules in given.items():
            for rule in rules:
                first, last = map(int, rule["frames"])
                entries.setdefault(key, []).extend((str(model), first, last) for model in rule["models"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        example = '{"clip1": [{"models": ["a"], "frames": [10, 25]}]}'
        raise ValueError(f"{path} must be JSON like {example}.") from None
    unknown = {model for rules in entries.values() for model, *_ in rules} - set(names)
    if unknown:
        raise ValueError(f"{path} leaves out {', '.join(sorted(unknown))}; the models are {', '.join(names)}.")
    return entries


def difficulty(labels: Labels) -> float:
    """Mean variance of the ensemble over frames and landmarks, over the face's area; NaN without a face."""
    area = np.prod(labels.bboxes[:, 2:] - labels.bboxes[:, :2], axis=1)[:, None]
    values = labels.variance / area
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def write_split(root: Path, difficulties: dict[str, float], share: float) -> tuple[list[str], list[str]]:
    """Writes the lists of the hard and the easy videos: the given share of them at either end of the variance.

    The paper takes the top and the bottom quarter of 2000. Returns both lists; a single video is in neither, and no
    lists are written.
    """
    ranked = sorted((key for key, value in difficulties.items() if np.isfinite(value)), key=lambda k: -difficulties[k])
    count = min(max(round(share * len(ranked)), 1), len(ranked) // 2)
    chosen = ranked[:count], ranked[len(ranked) - count :]
    for split, keys in zip(WflwV.LISTS, chosen, strict=True):
        (root / WflwV.LISTS[split]).unlink(missing_ok=True)
        if keys:
            write_atomically(root / WflwV.LISTS[split], "".join(f"{key}\n" for key in keys))
    return chosen


def label_video(ensemble: Ensemble, file: VideoFile, rules: Sequence[tuple[str, int, int]]) -> Labels:
    """Labels of a video without boxes: found once by the first model, then once more from the labels themselves."""
    boxes = find_boxes(file, HaarDetector(), ensemble.landmarkers[0], ensemble.config.video.min_iou)
    left_out = {}
    for model, first, last in rules:
        if not 0 <= first <= last < len(boxes):
            raise BadSample(
                f"{file.path} has frames 0 to {len(boxes) - 1}, of which {first} to {last} are to be left out."
            )
        frames = left_out.setdefault(model, np.zeros(len(boxes), bool))
        frames[first : last + 1] = True
    for _ in range(2):
        if not np.isfinite(boxes).all(axis=1).any():
            raise BadSample(f"{file.path}: no face was found in any of {len(boxes)} frames.")
        labels = ensemble.label(file, boxes, left_out)
        boxes = labels.bboxes
    return labels  # pyright: ignore[reportPossiblyUnboundVariable]


def _copy(source: Path, target: Path) -> None:
    """Copies a video or a folder of pictures, whole or not at all."""
    if target.exists() and source.resolve() == target.resolve():
        return
    partial = temporary_name(target)
    try:
        if source.is_dir():
            shutil.copytree(source, partial)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(partial, target)
        else:
            shutil.copyfile(source, partial)
            put_in_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class Options:
    videos: Inputs
    """Videos to label."""
    workdirs: tuple[str, ...]
    """Folders that `jaxlm train` wrote; with commas, or spaces and the videos first."""
    out: str
    """Folder of the labels, in WFLW-V's layout."""
    leave_out: str | None = None
    """JSON naming frames that models take no part in."""
    share: float = 0.25
    """Share of the videos in each of the lists hard and easy."""
    shard: str | None = None
    """i/n: every n-th video from the i-th, on one of n machines that write to one folder; the last writes the lists."""


def main(options: Options) -> dict[str, float]:
    """Labels the videos and returns name -> difficulty."""
    files = [Path(path) for path in options.videos]
    keys = [path.stem for path in files]
    if not files or len(set(keys)) < len(keys):
        raise ValueError("Name at least one video, and each name once: the name is the video's key.")
    if not 0 < options.share <= 0.5:
        raise ValueError(f"--share must lie in (0, 0.5], got {options.share}.")
    ensemble = Ensemble(split_commas(options.workdirs))
    rules = read_left_out(None if options.leave_out is None else Path(options.leave_out), ensemble.names)
    if set(rules) - set(keys):
        raise ValueError(
            f"{options.leave_out} names {', '.join(sorted(set(rules) - set(keys)))}, which is no video here."
        )
    root, difficulties, failed = Path(options.out).expanduser(), {}, []
    (root / "videos").mkdir(parents=True, exist_ok=True)
    shard = parse_shard(options.shard)
    for path in progress(shard.of(files), desc="labelling", unit="video"):
        try:
            labels = label_video(ensemble, VideoFile(path), rules.get(path.stem, []))
        except BadSample as error:
            failed.append(str(error))
            continue
        write_labels(root, path.stem, labels.landmarks, labels.bboxes, variance=labels.variance)
        _copy(path, root / "videos" / (path.name if path.is_dir() else path.stem + path.suffix.lower()))
        difficulties[path.stem] = difficulty(labels)
    print(f"{len(difficulties)} videos labelled by {len(ensemble.names)} models in {root}")
    run = [ensemble.names, sorted(keys), rules, options.share]
    whole = write_part(root / "difficulties.json", difficulties, shard, _joined, run)
    if whole is not None:
        difficulties = {key: np.nan if value is None else value for key, value in whole.items()}
        hard, easy = write_split(root, difficulties, options.share)
        print("Variance over face area:")
        for key, value in sorted(difficulties.items(), key=lambda item: -item[1]):
            split = "hard" if key in hard else "easy" if key in easy else ""
            print(f"{key:<30}{value:>12.3e}  {split}")
    if failed:
        raise ValueError(" ".join(failed))
    return difficulties


def _joined(parts: list[dict[str, float]]) -> dict[str, float]:
    return {key: value for part in parts for key, value in part.items()}

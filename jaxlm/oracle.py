"""Labels for a user's videos from an ensemble of trained models, section 5.2 of Micaelli et al., CVPR 2023.

    python -m jaxlm.oracle --workdirs=runs/a,runs/b,runs/c --out=labelled clip1.mp4 clip2.mp4 …

The heatmaps of all models are averaged frame by frame; many models together do not flicker, so that nothing is
filtered. `--out` then has WFLW-V's layout, with a further folder `variance/`, and lists of its hard and easy videos.
"""

import functools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Array, Float

from jaxlm import geometry, heatmaps, systems
from jaxlm.config import Config
from jaxlm.data.sets.wflw import WflwV
from jaxlm.data.video_batches import Video, crop_chunks
from jaxlm.data.video_builder import write_labels
from jaxlm.data.video_files import VideoFile
from jaxlm.detect import HaarDetector
from jaxlm.support.errors import BadSample
from jaxlm.support.files import write_atomically
from jaxlm.support.program import one_sentence, parse_flags, quiet_logs
from jaxlm.support.progress import progress
from jaxlm.track import Landmarker, find_boxes, make_landmarker, smooth_boxes
from jaxlm.trained import load
from jaxlm.workdir.config_file import load_config


class Labels(NamedTuple):
    """Of one video.

    Attributes:
        landmarks: (T, K, 2) in pixels; NaN where the face is lost.
        bboxes: (T, 4) around the landmarks, smoothed over time.
        variance: (T, K), mean squared distance of the models' landmarks to the ensemble's, in pixels²; NaN where lost.
    """

    landmarks: np.ndarray
    bboxes: np.ndarray
    variance: np.ndarray


def combine(
    maps: Float[Array, "M B h w K"], weights: Float[Array, "M B"]
) -> tuple[Float[Array, "B K 2"], Float[Array, "B K"]]:
    """Landmarks of averaged heatmaps and the models' variance around them.

    Args:
        maps: heatmaps of M models, not negative.
        weights: 1 where a model takes part, 0 where it is left out.

    Returns:
        Landmarks in cells, and the variance in cells². So that "uncertain models weight less", as the paper wants it,
        each map, normalised to a sum of 1, enters the average by the inverse of its own variance, which is ours; the
        landmarks are the average's soft-argmax.
    """
    certainty = weights[:, :, None] / (jnp.square(heatmaps.spread(maps)) + 0.25)  # a cell is ±½
    certainty = certainty / certainty.sum(axis=0, keepdims=True)
    density = maps / jnp.maximum(maps.sum(axis=(2, 3), keepdims=True), 1e-12)
    landmarks = heatmaps.soft_argmax(jnp.einsum("mbk,mbhwk->bhwk", certainty, density))
    distance = jnp.sum(jnp.square(heatmaps.soft_argmax(maps) - landmarks[None]), axis=-1)
    share = weights / weights.sum(axis=0, keepdims=True)
    return landmarks, jnp.einsum("mb,mbk->bk", share, distance)


class Oracle:
    """An ensemble of workdirs.

    Args:
        workdirs: that train.py wrote, of one landmark scheme and one `config.video.crop`.

    Raises:
        ValueError: if they do not fit together, or a system has no heatmaps.
    """

    def __init__(self, workdirs: Sequence[str | Path]):
        self.names = [Path(workdir).name for workdir in workdirs]
        if len(set(self.names)) < len(self.names) or not self.names:
            raise ValueError(f"The workdirs must have different names, got {', '.join(self.names) or 'none'}.")
        self.configs = [load_config(workdir) for workdir in workdirs]
        for name, config in zip(self.names, self.configs, strict=True):
            if "video" not in config:
                raise ValueError(f"The config.json of {name} has no part video; copy it from configs/, or train again.")
            first = self.configs[0]
            if (config.scheme, config.video.crop) != (first.scheme, first.video.crop):
                raise ValueError(f"{name} has another scheme or video.crop than {self.names[0]}; choose one of a kind.")
        self._predicts, self._variables = [], []
        self.landmarkers: list[Landmarker] = []
        for workdir, config in zip(workdirs, self.configs, strict=True):
            model = load(workdir)
            self._predicts.append(jax.jit(functools.partial(_heatmaps, systems.build(config))))
            self._variables.append(model.variables)
            self.landmarkers.append(make_landmarker(model))

    @property
    def config(self) -> Config:
        """Of the first model."""
        return self.configs[0]

    def label(self, file: VideoFile, boxes: np.ndarray, left_out: dict[str, np.ndarray] | None = None) -> Labels:
        """Labels of one video.

        Args:
            file: the video.
            boxes: (T, 4), NaN where the face is lost.
            left_out: model's name -> (T,) true where it takes no part.

        Raises:
            BadSample: if a frame is left with no model.
        """
        takes_part = np.ones((len(self.names), len(boxes)), np.float32)
        for name, frames in (left_out or {}).items():
            takes_part[self.names.index(name)] = ~frames
        if (takes_part.sum(axis=0) == 0).any():
            frame = int(np.flatnonzero(takes_part.sum(axis=0) == 0)[0])
            raise BadSample(f"{file.path}: every model is left out of frame {frame}; leave one in.")
        nothing = np.zeros((len(boxes), 1, 2)), np.zeros((len(boxes), 1), bool)
        video, settings = Video(file, boxes, *nothing), self.config.video
        chunk = min(settings.chunk, max(len(boxes), 1))
        options = dict(crop=settings.crop, chunk=chunk, min_iou=settings.min_iou)
        # Models of different sizes see crops of their own, from the same boxes.
        sizes = sorted({config.image_size for config in self.configs})
        readers = [crop_chunks([video], size=size, **options) for size in sizes]
        landmarks, variance = [], []
        for number, chunks in enumerate(zip(*readers, strict=True)):
            crops = dict(zip(sizes, chunks, strict=True))
            points, spread = self._combine(crops, takes_part[:, number * chunk : (number + 1) * chunk])
            landmarks.append(points)
            variance.append(spread)
        count = len(boxes)
        points = np.concatenate(landmarks)[:count]
        found = np.isfinite(points).all(axis=(1, 2))
        tight = np.full((count, 4), np.nan)
        tight[found] = np.array([geometry.box_of_points(shape) for shape in points[found]]).reshape(-1, 4)
        return Labels(points, smooth_boxes(tight, settings.min_iou), np.concatenate(variance)[:count])

    def _combine(self, crops: dict[int, dict[str, np.ndarray]], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks and variances of one chunk of one video, in pixels of the video."""
        maps = [
            predict(variables, crops[config.image_size]["image"][0])
            for predict, variables, config in zip(self._predicts, self._variables, self.configs, strict=True)
        ]
        finest = max(leaf.shape[1] for leaf in maps)
        maps = [jax.image.resize(leaf, (leaf.shape[0], finest, finest, leaf.shape[3]), "linear") for leaf in maps]
        chunk = crops[max(crops)]
        weights = np.pad(weights, ((0, 0), (0, maps[0].shape[0] - weights.shape[1])), constant_values=1.0)
        cells, variance = jax.device_get(combine(jnp.maximum(jnp.stack(maps), 0.0), jnp.asarray(weights)))
        size = chunk["image"].shape[2]
        back = geometry.invert_affine(chunk["transform"][0])
        landmarks = geometry.apply_affine(back, geometry.rescale_points(cells.astype(np.float64), size / finest))
        pixels = np.abs(np.linalg.det(back[:, :, :2]))[:, None] * (size / finest) ** 2
        lost = ~chunk["exists"][0]
        landmarks[lost] = np.nan
        return landmarks, np.where(lost[:, None], np.nan, variance * pixels)


def _heatmaps(system: systems.System, variables, images: Array) -> Array:
    aux = system.predict(variables, images).aux
    if "heatmaps" not in aux:
        raise ValueError("The oracle averages heatmaps, which this system does not have.")
    return aux["heatmaps"]


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


def label_video(oracle: Oracle, file: VideoFile, rules: Sequence[tuple[str, int, int]]) -> Labels:
    """Labels of a video without boxes: found once by the first model, then once more from the labels themselves."""
    boxes = find_boxes(file, HaarDetector(), oracle.landmarkers[0], oracle.config.video.min_iou)
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
        labels = oracle.label(file, boxes, left_out)
        boxes = labels.bboxes
    return labels  # pyright: ignore[reportPossiblyUnboundVariable]


def _copy(source: Path, target: Path) -> None:
    """Copies a video or a folder of pictures, whole or not at all."""
    if target.exists() and source.resolve() == target.resolve():
        return
    partial = target.with_name(f".{target.name}.partial")
    if source.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        shutil.rmtree(target, ignore_errors=True)
    else:
        shutil.copyfile(source, partial)
    os.replace(partial, target)


def main(argv: list[str]) -> None:
    quiet_logs()
    with one_sentence():
        files = [Path(path) for path in argv[1:]]
        keys = [path.stem for path in files]
        if not files or len(set(keys)) < len(keys):
            raise ValueError("Name at least one video, and each name once: the name is the video's key.")
        if not 0 < SHARE.value <= 0.5:
            raise ValueError(f"--share must lie in (0, 0.5], got {SHARE.value}.")
        oracle = Oracle(WORKDIRS.value)
        rules = read_left_out(None if LEAVE_OUT.value is None else Path(LEAVE_OUT.value), oracle.names)
        if set(rules) - set(keys):
            raise ValueError(
                f"{LEAVE_OUT.value} names {', '.join(sorted(set(rules) - set(keys)))}, which is no video here."
            )
        root, difficulties, failed = Path(OUT.value).expanduser(), {}, []
        (root / "videos").mkdir(parents=True, exist_ok=True)
        for path, key in zip(progress(files, desc="labelling", unit="video"), keys, strict=True):
            try:
                labels = label_video(oracle, VideoFile(path), rules.get(key, []))
            except BadSample as error:
                failed.append(str(error))
                continue
            write_labels(root, key, labels.landmarks, labels.bboxes, variance=labels.variance)
            _copy(path, root / "videos" / (path.name if path.is_dir() else key + path.suffix.lower()))
            difficulties[key] = difficulty(labels)
        hard, easy = write_split(root, difficulties, SHARE.value)
        print(f"{len(difficulties)} videos labelled by {len(oracle.names)} models in {root}; variance over face area:")
        for key, value in sorted(difficulties.items(), key=lambda item: -item[1]):
            split = "hard" if key in hard else "easy" if key in easy else ""
            print(f"{key:<30}{value:>12.3e}  {split}")
        if failed:
            raise ValueError(" ".join(failed))


if __name__ == "__main__":
    WORKDIRS = flags.DEFINE_list("workdirs", None, "Folders that train.py wrote.", required=True)
    OUT = flags.DEFINE_string("out", None, "Folder of the labels, in WFLW-V's layout.", required=True)
    LEAVE_OUT = flags.DEFINE_string("leave_out", None, "JSON naming frames that models take no part in.")
    SHARE = flags.DEFINE_float("share", 0.25, "Share of the videos in each of the lists hard and easy.")
    app.run(main, flags_parser=parse_flags)

"""Labels for a user's videos from an ensemble of trained models, section 5.2 of Micaelli et al., CVPR 2023.

The heatmaps of all models are averaged in each frame. The landmarks are not filtered over time, because the average
of many models does not flicker. `jaxlm label-videos` writes them in WFLW-V's layout, with a further folder
`variance/` and lists of the hard and the easy videos.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlm import geometry, heatmaps, systems
from jaxlm.config import Config
from jaxlm.data.video_batches import Video, crop_chunks
from jaxlm.data.video_files import VideoFile
from jaxlm.predict.face_boxes import Landmarker, make_landmarker, smooth_boxes
from jaxlm.predict.model import load_model
from jaxlm.schemes import get_scheme
from jaxlm.support.errors import BadSample
from jaxlm.workdir.config_file import load_config


class Labels(NamedTuple):
    """Labels of one video.

    Attributes:
        landmarks: (T, K, 2) in pixels of the video; NaN where the face is lost.
        bboxes: (T, 4) boxes around the landmarks, smoothed over time; NaN where the face is lost.
        variance: (T, K) mean squared distance of the models' landmarks from the ensemble's, in pixels²; NaN where the
            face is lost.
    """

    landmarks: np.ndarray
    bboxes: np.ndarray
    variance: np.ndarray


def combine(
    maps: Float[Array, "M B h w K"], weights: Float[Array, "M B"]
) -> tuple[Float[Array, "B K 2"], Float[Array, "B K"]]:
    """Landmarks of the models' averaged heatmaps, and the models' variance around them.

    The landmarks are the soft-argmax of a weighted average of the heatmaps, each normalised to a sum of 1. The paper
    states that "uncertain models weight less"; the weight, the inverse of a heatmap's own variance, is a choice of this
    implementation.

    Args:
        maps: heatmaps of M models for B frames, not negative.
        weights: 1 where a model takes part in a frame, 0 where it is left out.

    Returns:
        Landmarks in cells, and the variance in cells².
    """
    certainty = weights[:, :, None] / (jnp.square(heatmaps.spread(maps)) + 0.25)  # (½ cell)² keeps it finite
    certainty = certainty / certainty.sum(axis=0, keepdims=True)
    density = maps / jnp.maximum(maps.sum(axis=(2, 3), keepdims=True), 1e-12)
    landmarks = heatmaps.soft_argmax(jnp.einsum("mbk,mbhwk->bhwk", certainty, density))
    distance = jnp.sum(jnp.square(heatmaps.soft_argmax(maps) - landmarks[None]), axis=-1)
    share = weights / weights.sum(axis=0, keepdims=True)
    return landmarks, jnp.einsum("mb,mbk->bk", share, distance)


class Ensemble:
    """Ensemble of trained models that labels videos.

    Args:
        workdirs: folders that `jaxlm train` wrote, with the same landmark scheme and the same `config.video.crop`.

    Raises:
        ValueError: if two workdirs have the same name, a scheme or crop protocol differs, or a config has no part
            `video`.
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
            if (get_scheme(config.scheme), config.video.crop) != (get_scheme(first.scheme), first.video.crop):
                raise ValueError(f"{name} has another scheme or video.crop than {self.names[0]}; they must agree.")
        self._predicts, self._variables = [], []
        self.landmarkers: list[Landmarker] = []
        for workdir, config in zip(workdirs, self.configs, strict=True):
            model = load_model(workdir)
            self._predicts.append(jax.jit(functools.partial(_heatmaps, systems.build(config))))
            self._variables.append(model.variables)
            self.landmarkers.append(make_landmarker(model))

    @property
    def config(self) -> Config:
        """Config of the first model."""
        return self.configs[0]

    def label(self, file: VideoFile, boxes: np.ndarray, left_out: dict[str, np.ndarray] | None = None) -> Labels:
        """Labels of one video.

        Args:
            file: the video.
            boxes: (T, 4) boxes of the face, NaN where it is lost.
            left_out: model's name -> (T,), true in the frames that the model is left out of.

        Raises:
            BadSample: if every model is left out of a frame.
            ValueError: if a system predicts no heatmaps.
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
        # Models with different image sizes take different crops of the same boxes.
        sizes = sorted({config.image_size for config in self.configs})
        crops_of = functools.partial(crop_chunks, [video], crop=settings.crop, chunk=chunk, min_iou=settings.min_iou)
        readers = [crops_of(size=size) for size in sizes]
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
        """Landmarks, in pixels of the video, and variances, in pixels², of one chunk of one video."""
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
        raise ValueError("The ensemble averages heatmaps, but a system predicts none; leave its workdir out.")
    return aux["heatmaps"]

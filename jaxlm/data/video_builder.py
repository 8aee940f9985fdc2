"""Base of the TFDS builders of labelled videos. A record names its video file, which is decoded at every use."""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxlm.data.builder import FaceBuilder
from jaxlm.data.samples import check_boxes
from jaxlm.data.video_files import VideoFile
from jaxlm.support.errors import BadSample
from jaxlm.support.files import write_bytes_atomically


@dataclasses.dataclass
class VideoSample:
    """One annotated video of one face.

    Attributes:
        video: path of the file, or of a folder of pictures.
        landmarks: (T, K, 2) in 0-based pixels; NaN where a landmark is missing, all NaN in a frame without the face.
        bboxes: (T, 4) x1 y1 x2 y2 in pixels; NaN in a frame without the face.
        key: identifier of the video within its data set.
    """

    video: Path
    landmarks: np.ndarray
    bboxes: np.ndarray
    key: str


class VideoBuilder(FaceBuilder):
    """Base of the builders of videos, with the arguments of `FaceBuilder`."""

    def published_splits(self) -> dict[str, Iterable[VideoSample | BadSample]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Samples of each split, by the split's name."""
        raise NotImplementedError

    def _info(self):
        count = self.scheme.num_landmarks
        features = {
            "video": tfds.features.Text(),
            "key": tfds.features.Text(),
            "landmarks": tfds.features.Tensor(shape=(None, count, 2), dtype=np.float32),
            "mask": tfds.features.Tensor(shape=(None, count), dtype=np.uint8),
            "bbox": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, samples: Any):
        for number, sample in enumerate(samples):
            try:
                if isinstance(sample, BadSample):
                    raise sample
                check_video(sample)
            except BadSample as error:
                if self.on_bad == "error":
                    raise
                self.skipped.append(str(error))
                continue
            mask = np.asarray(np.isfinite(sample.landmarks).all(axis=-1))
            record = {
                "video": str(sample.video.resolve()),
                "key": sample.key,
                "landmarks": np.where(mask[..., None], sample.landmarks, 0.0).astype(np.float32),
                "mask": mask.astype(np.uint8),
                "bbox": sample.bboxes.astype(np.float32),
            }
            yield f"{number:06d}", record


def check_video(sample: VideoSample) -> None:
    """Checks that a video fits its labels.

    Raises:
        BadSample: if the video cannot be opened or is shorter than its labels, or if there is no label, not one box a
            frame, or a box without area or outside the video.
    """
    video = VideoFile(sample.video)
    frames = len(sample.landmarks)
    if frames == 0:
        raise BadSample(f"{sample.key} has no labelled frame; remove it.")
    if len(sample.bboxes) != frames:
        raise BadSample(f"{sample.key}: there are {frames} frames of landmarks, but {len(sample.bboxes)} boxes.")
    # The number of frames that a container states may be wrong, so they are counted.
    if (held := video.count()) < frames:
        raise BadSample(
            f"{sample.video} has {held} frames, but {frames} are labelled: it is truncated; replace the file."
        )
    check_boxes(sample.bboxes, video.shape, sample.key, of_frames=True)


def write_labels(root: Path, key: str, landmarks: np.ndarray, bboxes: np.ndarray, **more: np.ndarray) -> None:
    """Writes the labels of a video in the layout of WFLW-V.

    Args:
        root: folder of the data set.
        key: key of the video, which names its files.
        landmarks: (T, 98, 2) in pixels; NaN in a frame without the face.
        bboxes: (T, 4) x1 y1 x2 y2 in pixels.
        **more: further arrays, each written to a folder of its name.
    """
    for name, array in {"landmarks": landmarks, "bboxes": bboxes, **more}.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        values = np.asarray(array, np.float32)
        write_bytes_atomically(root / name / f"{key}.npy", functools.partial(np.save, arr=values, allow_pickle=False))

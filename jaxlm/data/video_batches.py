"""Batches of face crops from videos, a limited number of frames at a time, so that a video may have any length."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxlm import geometry
from jaxlm.data import crops
from jaxlm.data.video_files import VideoFile
from jaxlm.support.errors import BadSample
from jaxlm.support.pictures import picture_change, warp


@dataclasses.dataclass(frozen=True)
class Video:
    """One video of one face, with the face's box in each frame.

    Attributes:
        file: video file of the frames.
        boxes: (T, 4) x1 y1 x2 y2 in pixels of the video; NaN in a frame without the face.
        landmarks: (T, K, 2) in pixels of the video; used only by crop protocols that depend on landmarks.
        mask: (T, K), true where a landmark exists.
    """

    file: VideoFile
    boxes: np.ndarray
    landmarks: np.ndarray
    mask: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


def video_of(record: dict[str, Any]) -> Video:
    """Video of a record of a `jaxlm.data.sources.VideoSource`."""
    mask = np.asarray(record["mask"], bool)
    return Video(VideoFile(record["video"].decode()), np.asarray(record["bbox"]), np.asarray(record["landmarks"]), mask)


def crop_chunks(
    videos: Sequence[Video],
    *,
    crop: str,
    size: int,
    chunk: int,
    min_iou: float,
    max_change: float = float("inf"),
    batch_size: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Crops of a batch of videos, `chunk` frames of every video at a time; crops after a video's end are zero.

    Args:
        videos: videos of the batch.
        crop: protocol, a key of `jaxlm.data.crops.PROTOCOLS`.
        size: side of a crop in pixels.
        chunk: number of frames at a time; the last chunk is padded.
        min_iou: a frame restarts the video if the intersection over union of its box with the previous frame's box is
            smaller.
        max_change: a frame restarts the video, too, if its crop differs by more from the previous frame's, see
            `jaxlm.support.pictures.picture_change`.
        batch_size: B, to which the batch is padded with empty videos; None for the number of videos.

    Yields:
        image (B, chunk, size, size, 3) uint8, transform (B, chunk, 2, 3) video → crop, exists (B, chunk) true for a
        frame with a face, restart (B, chunk) true if the previous frame must not be used for this one.

    Raises:
        BadSample: if a video ends before its boxes do.
    """
    batch_size = len(videos) if batch_size is None else batch_size
    decoders = [iter(video.file) for video in videos]
    last: list[np.ndarray | None] = [None] * len(videos)  # the previous frame's crop
    identity = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    for first in range(0, max(map(len, videos), default=0), chunk):
        image = np.zeros((batch_size, chunk, size, size, 3), np.uint8)
        transform = np.tile(identity, (batch_size, chunk, 1, 1))
        exists, restart = np.zeros((batch_size, chunk), bool), np.zeros((batch_size, chunk), bool)
        for i, (video, decoder) in enumerate(zip(videos, decoders, strict=True)):
            for time in range(first, min(first + chunk, len(video))):
                frame = next(decoder, None)
                if frame is None:
                    raise BadSample(
                        f"{video.file.path} ends after {time} frames where {len(video)} were expected: it is "
                        "truncated; replace the file."
                    )
                box = video.boxes[time]
                if not np.isfinite(box).all():
                    last[i] = None
                    continue
                square = crops.crop_box(crop, box=box, points=video.landmarks[time][video.mask[time]])
                at = i, time - first
                transform[at], exists[at] = geometry.box_to_crop(square, size), True
                image[at] = warp(frame, transform[at], size)
                before = video.boxes[time - 1] if time else np.full(4, np.nan)
                # The IoU is NaN if the previous frame has no box; this restarts as well.
                previous, last[i] = last[i], image[at]
                cut = previous is not None and picture_change(previous, image[at]) > max_change
                restart[at] = cut or not geometry.box_iou(before, box) >= min_iou
        yield {"image": image, "transform": transform, "exists": exists, "restart": restart}

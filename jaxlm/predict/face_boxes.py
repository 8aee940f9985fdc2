"""Boxes of the faces in every frame of a video, for `jaxlm track` and `jaxlm predict`.

For live use without a file see `jaxlm.video.recurrence.advance`.
"""

import itertools
from collections.abc import Callable

import numpy as np

from jaxlm import geometry
from jaxlm.config import Config
from jaxlm.data import crops
from jaxlm.data.samples import check_boxes
from jaxlm.data.video_batches import Video
from jaxlm.data.video_files import VideoFile
from jaxlm.predict.detectors import Detector, without_overlaps
from jaxlm.predict.model import TrainedModel
from jaxlm.support.errors import BadSample
from jaxlm.support.pictures import warp
from jaxlm.support.progress import progress

# (image (H, W, 3), box (4,)) -> (landmarks (K, 2) in pixels of the image, mean score)
Landmarker = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, float]]
_LOST_SCORE = 0.2  # mean score below which a face is lost; its heatmaps are spread over the face
_BOX_SMOOTHING = 3.0  # frames, standard deviation
_DETECT_EVERY = 10  # frames between searches for further faces
_SAME_FACE = 0.3  # least intersection over union of two boxes of one face
_SHORTEST = 8  # least number of frames of a further face


def make_landmarker(model: TrainedModel) -> Landmarker:
    """Returns the function that finds the landmarks of one face, under the crop protocol for videos."""
    config = model.config

    def landmarker(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, float]:
        transform = geometry.box_to_crop(crops.crop_box(video_crop(config), box=box), config.image_size)
        prediction = model.predict(warp(image, transform, config.image_size)[None])
        landmarks = np.asarray(prediction.landmarks[0], np.float64)
        return geometry.apply_affine(geometry.invert_affine(transform), landmarks), float(prediction.score.mean())

    return landmarker


def video_crop(config: Config) -> str:
    """Name of the crop protocol for videos, or of that for stills if the config has no part `video`."""
    return config.video.crop if "video" in config else config.data.crop


def find_boxes(file: VideoFile, detect: Detector, landmarker: Landmarker, min_iou: float) -> np.ndarray:
    """Box (T, 4) of the largest face in every frame, NaN where there is none; see `find_faces`."""
    return find_faces(file, detect, landmarker, min_iou, max_faces=1)[0]


def find_faces(
    file: VideoFile, detect: Detector, landmarker: Landmarker, min_iou: float, *, max_faces: int
) -> list[np.ndarray]:
    """Boxes of up to `max_faces` faces in every frame, from one pass over the file.

    The detector's boxes jitter, so it gives only the first box of a face. From then on, the box is the one around the
    frame's landmarks (section 5.2 of Micaelli et al., CVPR 2023). The boxes are smoothed over time at the end. While
    there is a face, the detector searches for further ones only every few frames.

    Args:
        file: the video.
        detect: image -> boxes (N, 4), the largest first.
        landmarker: see `make_landmarker`.
        min_iou: intersection over union of successive boxes below which they are not smoothed together.
        max_faces: largest number of faces in a frame, at least 1.

    Returns:
        An array (T, 4) for each face, NaN where it was not seen; one array of NaN if there is no face at all. After a
        face is lost, its array takes the next new face.
    """
    rows: list[list[np.ndarray | None]] = []
    boxes: list[np.ndarray | None] = [None] * max_faces
    faces = "the face" if max_faces == 1 else "faces"
    bar = progress(total=file.num_frames, desc=f"finding {faces} in {file.path.name}", unit="frame")
    for number, frame in enumerate(file):
        fresh: list[int] = []
        seen = [box for box in boxes if box is not None]
        if len(seen) < max_faces and (not seen or number % _DETECT_EVERY == 0):
            for found in detect(frame):
                if len(seen) < max_faces and all(geometry.box_iou(found, box) < _SAME_FACE for box in seen):
                    slot = next(slot for slot, box in enumerate(boxes) if box is None)
                    boxes[slot] = found
                    seen.append(found)
                    fresh.append(slot)
        for slot in range(max_faces):
            # The first box is rough: it takes a few rounds until it fits the landmarks.
            for _ in range(3 if slot in fresh else 1):
                box = boxes[slot]
                if box is not None:
                    boxes[slot] = next_box(box, *landmarker(frame, box), frame.shape)
        boxes = _without_doubles(boxes)
        rows.append(list(boxes))
        bar.update()
    bar.total = len(rows)  # the file may state another number
    bar.close()
    return _tracks_of_rows(rows, max_faces, min_iou)


def _without_doubles(boxes: list[np.ndarray | None]) -> list[np.ndarray | None]:
    """Boxes with None in place of each box that lies on the same face as an earlier one."""
    slots = [slot for slot, box in enumerate(boxes) if box is not None]
    kept = {slots[i] for i in without_overlaps([box for box in boxes if box is not None])}
    return [box if slot in kept else None for slot, box in enumerate(boxes)]


def _tracks_of_rows(rows: list[list[np.ndarray | None]], max_faces: int, min_iou: float) -> list[np.ndarray]:
    tracks = []
    for slot in range(max_faces):
        boxes = np.array([np.full(4, np.nan) if row[slot] is None else row[slot] for row in rows]).reshape(-1, 4)
        # A false detection of a further face lasts only a few frames.
        if slot == 0 or np.isfinite(boxes).all(axis=1).sum() >= min(_SHORTEST, len(rows)):
            tracks.append(smooth_boxes(boxes, min_iou))
    return tracks


def next_box(box: np.ndarray, landmarks: np.ndarray, score: float, shape: tuple[int, ...]) -> np.ndarray | None:
    """Box (4,) around the landmarks, for the next frame; None if the face is lost.

    A face is lost if its mean score is low, its centre lies outside the picture, or its area changes abruptly.

    Args:
        box: (4,) that the landmarks were found in.
        landmarks: (K, 2) in pixels of the picture.
        score: mean score of the landmarks.
        shape: (H, W, …) of the picture.
    """
    following = geometry.box_of_points(landmarks)
    growth = np.prod(following[2:] - following[:2]) / np.prod(box[2:] - box[:2])
    center = (following[:2] + following[2:]) / 2
    inside = 0 <= center[0] < shape[1] and 0 <= center[1] < shape[0]
    return following if score >= _LOST_SCORE and 0.4 < growth < 2.5 and inside else None


def smooth_boxes(boxes: np.ndarray, min_iou: float, sigma: float = _BOX_SMOOTHING) -> np.ndarray:
    """Boxes (T, 4) smoothed over time by a gaussian.

    Args:
        boxes: (T, 4), NaN where the face is lost; nothing is smoothed across such frames.
        min_iou: intersection over union of successive boxes below which nothing is smoothed across them.
        sigma: standard deviation in frames.
    """
    from scipy.ndimage import gaussian_filter1d  # what works on pictures alone starts faster without it

    starts = [0]
    for time in range(1, len(boxes)):
        if not geometry.box_iou(boxes[time - 1], boxes[time]) >= min_iou:
            starts.append(time)
    smooth = boxes.copy()
    for start, stop in itertools.pairwise([*starts, len(boxes)]):
        smooth[start:stop] = gaussian_filter1d(boxes[start:stop], sigma, axis=0, mode="nearest")
    return smooth


def boxes_of_file(file: VideoFile, boxes: np.ndarray) -> np.ndarray:
    """Returns the boxes (T, 4), NaN where the face is lost, after a check that they fit the video.

    Raises:
        BadSample: if there is not one box for each frame, or a box has no area or lies outside the video.
    """
    held = file.count()
    if len(boxes) != held:
        raise BadSample(f"{file.path} holds {held} frames, but there are {len(boxes)} boxes; give one for each frame.")
    return check_boxes(boxes, file.shape, str(file.path), of_frames=True)


def video_of_boxes(file: VideoFile, boxes: np.ndarray, num_landmarks: int) -> Video:
    """Video with boxes (T, 4) and without known landmarks: its mask is false."""
    return Video(file, boxes, np.zeros((len(boxes), num_landmarks, 2)), np.zeros((len(boxes), num_landmarks), bool))

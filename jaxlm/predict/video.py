"""Tracks faces in videos and camera streams, by recurrence without recurrence (RwR) if the model has a state."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm import geometry, systems
from jaxlm.data import crops
from jaxlm.data.video_batches import Video
from jaxlm.data.video_files import VideoFile
from jaxlm.predict import face_boxes
from jaxlm.predict.follower import Follower, Track, no_past
from jaxlm.predict.predictor import Face, Predictor
from jaxlm.schemes import get_scheme
from jaxlm.support.pictures import picture_change, warp


class VideoPrediction(NamedTuple):
    """Tracks of the faces of a video.

    Attributes:
        tracks: landmarks and scores of each face, NaN where it was not seen.
        frames: number of frames that could be decoded.
    """

    tracks: list[Track]
    frames: int


class VideoPredictor:
    """Tracks faces in videos, by recurrence without recurrence if the system has a state, else frame by frame.

    Args:
        predictor: its model and its detector are used.
        max_faces: largest number of faces in a frame.
        method: see `jaxlm.predict.follower.Method`; where it is None, "rwr" if the system has a state, else "frame".
    """

    def __init__(self, predictor: Predictor, *, max_faces: int = 4, method: str | None = None):
        self.model, self.detect, self._max_faces = predictor.model, predictor.detect, max_faces
        self._landmarker = face_boxes.make_landmarker(self.model)
        self._follower = None
        if self.model.variables is not None and "video" in self.model.config:
            best = "rwr" if systems.build(self.model.config).track is not None else "frame"
            self.method = method or best
            self._follower = Follower(self.model.variables, self.model.config, [self.method], batch_size=1)
        elif method not in (None, "frame"):
            raise ValueError(f"{self.model.name} has no state to start from; use the method frame.")
        else:
            self.method = "frame"

    def __call__(self, file: VideoFile, boxes: np.ndarray | None = None) -> VideoPrediction:
        """Tracks of the faces of a video.

        Args:
            file: the video.
            boxes: (T, 4) boxes of one face, NaN where it is lost; the faces are found where it is None.

        Raises:
            BadSample: if there is not one box for each frame, or a box has no area or lies outside the video.
        """
        config = self.model.config
        if boxes is None:
            min_iou = config.video.min_iou if "video" in config else 0.4
            found = face_boxes.find_faces(file, self.detect, self._landmarker, min_iou, max_faces=self._max_faces)
        else:
            found = [face_boxes.boxes_of_file(file, boxes)]
        count = get_scheme(config.scheme).num_landmarks
        tracks = []
        for own in found:
            if np.isfinite(own).all(axis=1).any():
                video = face_boxes.video_of_boxes(file, own, count)
                if self._follower is not None:
                    tracks.append(next(iter(self._follower([video]).values()))[0])
                else:
                    tracks.append(self._frame_by_frame(video, count))
        return VideoPrediction(tracks, len(found[0]))

    def _frame_by_frame(self, video: Video, count: int) -> Track:
        landmarks, score = np.full((len(video), count, 2), np.nan), np.full((len(video), count), np.nan)
        for number, (frame, box) in enumerate(zip(video.file, video.boxes, strict=False)):
            if np.isfinite(box).all():
                landmarks[number], score[number] = self._landmarker(frame, box)
        return Track(landmarks, score, np.isfinite(score[:, 0]))


class LiveTracker:
    """Tracks the largest face of a stream, one frame at a time, from the past frames alone.

    Args:
        predictor: its model and its detector are used. An exported graph has no state: each frame is predicted on its
            own.
    """

    def __init__(self, predictor: Predictor):
        self._model, self._detect = predictor.model, predictor.detect
        self._landmarker = face_boxes.make_landmarker(self._model)
        self._box: np.ndarray | None = None
        self._crop: np.ndarray | None = None
        self._track, self._past = None, None
        video = self._model.config.get("video", {})
        self._max_change = video.get("max_change", float("inf"))
        if self._model.variables is not None and video:
            method = systems.build(self._model.config).track
            self._track = None if method is None else jax.jit(functools.partial(method, "rwr"))

    def __call__(self, frame: np.ndarray) -> Face | None:
        """Face in the next frame (H, W, 3) uint8 RGB; None if there is none."""
        fresh = self._box is None
        box = self._find(frame) if self._box is None else self._box
        if box is None:
            return None
        landmarks, score = self._look(frame, box, fresh)
        following = face_boxes.next_box(box, landmarks, float(score.mean()), frame.shape)
        # The mean with the last box keeps the crop from jittering with the landmarks.
        self._box = None if following is None else 0.5 * (box + following)
        name = get_scheme(self._model.config.scheme).name
        return None if following is None else Face(landmarks, score, box, scheme=name)

    def _find(self, frame: np.ndarray) -> np.ndarray | None:
        found = self._detect(frame)
        box = found[0] if len(found) else None
        for _ in range(2):
            if box is not None:
                box = face_boxes.next_box(box, *self._landmarker(frame, box), frame.shape)
        return box

    def _look(self, frame: np.ndarray, box: np.ndarray, fresh: bool) -> tuple[np.ndarray, np.ndarray]:
        """Landmarks (K, 2) in the frame's pixels and scores (K,)."""
        config = self._model.config
        square = crops.crop_box(face_boxes.video_crop(config), box=box)
        transform = geometry.box_to_crop(square, config.image_size)
        crop = warp(frame, transform, config.image_size)
        cut = self._crop is not None and picture_change(self._crop, crop) > self._max_change
        fresh, self._crop = fresh or cut, crop
        if self._track is None:
            prediction: Any = jax.tree.map(lambda leaf: np.asarray(leaf)[0], self._model.predict(crop[None])[:2])
        else:
            seen = dict(image=crop[None, None], restart=np.full((1, 1), fresh), exists=np.ones((1, 1), bool))
            past = no_past(self._track, self._model.variables, seen) if self._past is None else self._past
            found, self._past = self._track(self._model.variables, **seen, past=past)
            prediction = np.asarray(found.landmarks)[0, 0], np.asarray(found.score)[0, 0]
        back = geometry.invert_affine(transform)
        return geometry.apply_affine(back, np.asarray(prediction[0], np.float64)), prediction[1]

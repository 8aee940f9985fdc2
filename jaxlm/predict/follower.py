"""Landmarks of videos by several methods (frame by frame, RwR, energy, filters), from one pass over the files."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm import geometry, systems
from jaxlm.config import Config
from jaxlm.data.video_batches import Video, crop_chunks
from jaxlm.systems import Prediction
from jaxlm.video import filters
from jaxlm.video.trackers import parse_tracker


@dataclasses.dataclass(frozen=True)
class Method:
    """Method that finds landmarks in a video, written "tracker" or "tracker+filter", as in "rwr:2" or "frame+ema:0.7".

    Attributes:
        name: the text as written.
        tracker: as `jaxlm.video.trackers.parse_tracker` reads it.
        filter: filter as `jaxlm.video.filters.parse` reads it, "" for none.
    """

    name: str
    tracker: str
    filter: str


def parse_method(name: str) -> Method:
    """Method that a text names.

    Raises:
        ValueError: for an unknown tracker or filter.
    """
    tracker, _, spec = name.partition("+")
    parse_tracker(tracker)
    if spec:
        filters.parse(spec)
    return Method(name, tracker, spec)


class Track(NamedTuple):
    """Landmarks of one video.

    Attributes:
        landmarks: (T, K, 2) in pixels of the video; NaN where the face is lost.
        score: (T, K); NaN where the face is lost.
        restarted: (T,), true where the solver did not start from the last frame's equilibrium.
    """

    landmarks: np.ndarray
    score: np.ndarray
    restarted: np.ndarray


class Follower:
    """Runs a system's trackers over batches of videos.

    `config.eval.flip_average` is switched off, because the trackers keep no equilibrium of the mirror image.

    Args:
        variables: parameters of the system, as `System.predict` takes them.
        config: config of the experiment; its part `video` configures the trackers.
        methods: names of the methods to run, see `Method`. If the system has no state, only those with the tracker
            "frame" are run.
        batch_size: number of videos at a time; `config.video.batch_size` where it is None.

    Raises:
        ValueError: if a method is unknown or none is left, or the config has no part `video`.
    """

    def __init__(self, variables: Any, config: Config, methods: Sequence[str], batch_size: int | None = None):
        if "video" not in config:
            raise ValueError("The config.json of the workdir has no part video; copy it from configs/, or train again.")
        self.config = config.copy_and_resolve_references()
        self.config.eval.flip_average = False
        system = systems.build(self.config)
        self.methods = [parse_method(name) for name in methods]
        if system.track is None and any(method.tracker != "frame" for method in self.methods):
            print(f"The system {config.system!r} has no state to start from: only the tracker frame is run.")
            self.methods = [method for method in self.methods if method.tracker == "frame"]
        if not self.methods:
            raise ValueError("There is no method to track with; name at least one in config.video.methods.")
        trackers = dict.fromkeys(method.tracker for method in self.methods)
        devices = jax.local_devices()
        mesh = jax.sharding.Mesh(np.array(devices), ("data",))
        self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        self._batch_size = -(-(batch_size or config.video.batch_size) // len(devices)) * len(devices)
        self._variables = jax.device_put(jax.device_get(variables), jax.sharding.NamedSharding(mesh, jax.P()))
        track = functools.partial(_frame_by_frame, system.predict) if system.track is None else system.track
        jit = functools.partial(jax.jit, out_shardings=self._sharding)
        self._track = {name: jit(functools.partial(track, name)) for name in trackers}

    def __call__(self, videos: Sequence[Video]) -> dict[str, list[Track]]:
        """Method's name -> a track for each video; takes at most a batch of videos, each of at least one frame."""
        settings, lengths = self.config.video, [len(video) for video in videos]
        chunks = crop_chunks(
            videos,
            crop=settings.crop,
            size=self.config.image_size,
            chunk=settings.chunk,
            min_iou=settings.min_iou,
            max_change=settings.get("max_change", float("inf")),
            batch_size=self._batch_size,
        )
        past: dict[str, Any] = {}
        parts: dict[str, list[list[np.ndarray]]] = {name: [] for name in self._track}
        for chunk in chunks:
            device = {key: jax.device_put(chunk[key], self._sharding) for key in ("image", "restart", "exists")}
            for name, track in self._track.items():
                if name not in past:
                    past[name] = jax.device_put(no_past(track, self._variables, device), self._sharding)
                prediction, past[name] = track(self._variables, **device, past=past[name])
                parts[name].append(_in_video(jax.device_get(prediction), chunk))
        tracks: dict[str, list[Track]] = {method.name: [] for method in self.methods}
        for method in self.methods if videos else []:
            whole = [np.concatenate(arrays, axis=1) for arrays in zip(*parts[method.tracker], strict=True)]
            tracks[method.name] = [
                _filtered(method, Track(*(array[i, :length] for array in whole)), video.file.fps)
                for i, (video, length) in enumerate(zip(videos, lengths, strict=True))
            ]
        return tracks


def no_past(track: Any, variables: Any, frames: dict[str, Any]) -> Any:
    """Past with which `System.track` starts at the first chunk: zeros with the shapes of a later past.

    The same compiled program then serves every chunk, the first one included.
    """
    shapes = jax.eval_shape(functools.partial(track, **frames, past=None), variables)[1]
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def _frame_by_frame(predict, method, variables, image, restart, exists, past):
    """`System.track` for a system without a state: predicts every frame on its own."""
    del method, exists
    prediction = predict(variables, image.reshape(-1, *image.shape[2:]))
    landmarks, score = (leaf.reshape(*image.shape[:2], *leaf.shape[1:]) for leaf in prediction[:2])
    return Prediction(landmarks, score, {"restarted": restart | True}), past


def _in_video(prediction: Prediction, chunk: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Landmarks in pixels of the video, scores and restarts of a chunk; NaN where there is no frame with a face."""
    back = geometry.invert_affine(chunk["transform"])
    landmarks = geometry.apply_affine(back, np.asarray(prediction.landmarks, np.float64))
    lost = ~chunk["exists"]
    landmarks[lost] = np.nan
    score = np.where(lost[..., None], np.nan, prediction.score)
    return [landmarks, score, np.asarray(prediction.aux["restarted"]) & ~lost]


def _filtered(method: Method, track: Track, fps: float) -> Track:
    """Track after the method's filter, which takes lengths in hundredths of the face's size."""
    if not method.filter or len(track.landmarks) == 0 or np.isnan(track.landmarks).all():
        return track
    size = np.nanmean(np.sqrt(np.prod(np.ptp(track.landmarks, axis=1), axis=-1))) / 100
    landmarks = filters.parse(method.filter)(track.landmarks / size, track.score, fps) * size
    return track._replace(landmarks=landmarks)

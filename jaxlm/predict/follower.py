"""Landmarks of labelled videos by several methods, frame-wise, RwR and filters, from one pass over the files."""

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

TRACKERS = ("frame", "early", "rwr", "energy")


@dataclasses.dataclass(frozen=True)
class Method:
    """How landmarks are found on a video, written "tracker" or "tracker+filter", as in "frame+ema:0.7".

    Attributes:
        name: that text.
        tracker: one of `TRACKERS`.
        filter: text of `jaxlm.video.filters.parse`, "" for none.
    """

    name: str
    tracker: str
    filter: str


def parse_method(name: str) -> Method:
    """The method of a text.

    Raises:
        ValueError: for an unknown tracker or filter.
    """
    tracker, _, spec = name.partition("+")
    if tracker not in TRACKERS:
        raise ValueError(f"There is no method {tracker!r} in {name!r}; choose one of {', '.join(TRACKERS)}.")
    if spec:
        filters.parse(spec)
    return Method(name, tracker, spec)


class Track(NamedTuple):
    """Landmarks of one video.

    Attributes:
        landmarks: (T, K, 2) in pixels of the video; NaN where the face is lost.
        score: (T, K); NaN where the face is lost.
        restarted: (T,) whether the frame was solved without a past.
    """

    landmarks: np.ndarray
    score: np.ndarray
    restarted: np.ndarray


class Follower:
    """Runs a system's trackers over batches of videos.

    Mirror images are not averaged (`config.eval.flip_average`), because an equilibrium has no mirror image.

    Args:
        variables: of a checkpoint.
        config: of the experiment; its part `video` is what counts here.
        methods: whose trackers are run. Those that need a state are left out where the system has none.
        batch_size: videos at a time; `config.video.batch_size` where it is None.

    Raises:
        ValueError: if there is no method, or the config is from before there were videos.
    """

    def __init__(self, variables: Any, config: Config, methods: Sequence[str], batch_size: int | None = None):
        if "video" not in config:
            raise ValueError("The config.json of the workdir has no part video; copy it from configs/, or train again.")
        self.config = config.copy_and_resolve_references()
        self.config.eval.flip_average = False
        system = systems.build(self.config)
        self.methods = [parse_method(name) for name in methods]
        if system.track is None and any(method.tracker != "frame" for method in self.methods):
            print(f"The system {config.system!r} has no state to start from: of the methods only frame is left.")
            self.methods = [method for method in self.methods if method.tracker == "frame"]
        if not self.methods:
            raise ValueError("There is no method to track with; config.video.methods names them.")
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
        """Tracks of every video (at most a batch of them, each of a frame at least) by every method's name."""
        settings, lengths = self.config.video, [len(video) for video in videos]
        chunks = crop_chunks(
            videos,
            crop=settings.crop,
            size=self.config.image_size,
            chunk=settings.chunk,
            min_iou=settings.min_iou,
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
    """What `System.track` of these frames starts from where no video has started: zeros of the right shapes, so that
    one program serves every chunk."""
    shapes = jax.eval_shape(functools.partial(track, **frames, past=None), variables)[1]
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def _frame_by_frame(predict, method, variables, image, restart, exists, past):
    """`System.track` of a system without a state."""
    del method, exists
    prediction = predict(variables, image.reshape(-1, *image.shape[2:]))
    landmarks, score = (leaf.reshape(*image.shape[:2], *leaf.shape[1:]) for leaf in prediction[:2])
    return Prediction(landmarks, score, {"restarted": restart | True}), past


def _in_video(prediction: Prediction, chunk: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Landmarks in pixels of the video, scores and restarts of a chunk; NaN where no frame exists."""
    back = geometry.invert_affine(chunk["transform"])
    landmarks = geometry.apply_affine(back, np.asarray(prediction.landmarks, np.float64))
    lost = ~chunk["exists"]
    landmarks[lost] = np.nan
    score = np.where(lost[..., None], np.nan, prediction.score)
    return [landmarks, score, np.asarray(prediction.aux["restarted"]) & ~lost]


def _filtered(method: Method, track: Track, fps: float) -> Track:
    """The track behind the method's filter, which sees lengths in hundredths of the face's size."""
    if not method.filter or len(track.landmarks) == 0 or np.isnan(track.landmarks).all():
        return track
    size = np.nanmean(np.sqrt(np.prod(np.ptp(track.landmarks, axis=1), axis=-1))) / 100
    landmarks = filters.parse(method.filter)(track.landmarks / size, track.score, fps) * size
    return track._replace(landmarks=landmarks)

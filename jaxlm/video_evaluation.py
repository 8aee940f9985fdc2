"""Landmarks of labelled videos by several methods, frame-wise, RwR and filters, from one pass over the files."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm import geometry, metrics, systems
from jaxlm.config import Config
from jaxlm.data.video_batches import Video, VideoSource, by_length, crop_chunks, video_of
from jaxlm.schemes import Scheme, normalizer
from jaxlm.support.progress import progress
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


class Score(NamedTuple):
    """How good a track is; fractions, but `nmf`, which is the released variant.

    Attributes:
        nme: (T,); NaN where no landmark exists.
        flicker: (T,); NaN at the first frame.
        nmf: see `jaxlm.metrics.nmf`.
        nmf_paper: Eq. (11).
        stability: see `jaxlm.metrics.stability`.
        jitter: see `jaxlm.metrics.jitter`.
    """

    nme: np.ndarray
    flicker: np.ndarray
    nmf: float
    nmf_paper: float
    stability: float
    jitter: float


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


def score_track(track: Track, video: Video, scheme: Scheme, normalizer_name: str) -> Score:
    """Measures one track against the video's labels."""
    truth, mask, pred = video.landmarks, video.mask, track.landmarks
    lengths = [
        normalizer(normalizer_name, scheme, *of_frame) for of_frame in zip(truth, mask, video.boxes, strict=True)
    ]
    # Distances between frames are small beside coordinates, so that float32 needs an origin nearby.
    origin = truth[mask].mean(axis=0) if mask.any() else np.zeros(2)
    pred, truth = (pred - origin).astype(np.float32), (truth - origin).astype(np.float32)
    pred = np.where(mask[..., None], pred, 0.0).astype(np.float32)
    return Score(
        nme=np.asarray(metrics.nme(pred, truth, np.array(lengths, np.float32), mask)),
        flicker=np.asarray(metrics.flicker(pred, truth, mask)),
        nmf=metrics.nmf(pred, truth, mask),
        nmf_paper=metrics.nmf(pred, truth, mask, variant="paper"),
        stability=metrics.stability(pred, truth, mask),
        jitter=metrics.jitter(track.landmarks.astype(np.float32)),
    )


class VideoResult(NamedTuple):
    """Everything about one split of videos.

    Attributes:
        keys: of the videos.
        tracks: method -> a track for each video.
        scores: method -> a score for each video.
    """

    keys: list[str]
    tracks: dict[str, list[Track]]
    scores: dict[str, list[Score]]

    def row(self, method: str) -> dict[str, float]:
        """Means over the videos: NME, stability and jitter in percent, both NMFs, restarts in percent of the frames."""
        scores, tracks = self.scores[method], self.tracks[method]
        restarted = np.concatenate([track.restarted for track in tracks])
        return {
            "nme": 100 * metrics.mean(np.array([metrics.mean(score.nme) for score in scores])),
            "nmf": metrics.mean(np.array([score.nmf for score in scores])),
            "nmf_paper": metrics.mean(np.array([score.nmf_paper for score in scores])),
            "stability": 100 * metrics.mean(np.array([score.stability for score in scores])),
            "jitter": 100 * metrics.mean(np.array([score.jitter for score in scores])),
            "restarts": 100 * float(restarted.mean()) if len(restarted) else float("nan"),
        }


class TunedAverage(NamedTuple):
    """An exponential moving average with the flicker of another method.

    Attributes:
        alpha: of the average.
        nme: mean over the videos, as a fraction.
        nmf: mean over the videos, released variant.
    """

    alpha: float
    nme: float
    nmf: float

    def row(self) -> dict[str, float]:
        """As `VideoResult.row` has it: the NME in percent."""
        return {"alpha": self.alpha, "nme": 100 * self.nme, "nmf": self.nmf}


def tune_average(
    result: VideoResult, source: VideoSource, config: Config, *, base: str = "frame", like: str = "rwr"
) -> TunedAverage | None:
    """The average of `base`'s landmarks whose NMF is that of `like`: what `like` has to beat in NME.

    None where either method was not run, `like` flickers no less than `base`, or no average of α down to 0.3 does.
    """
    if base not in result.tracks or like not in result.tracks:
        return None
    videos = [video_of(source.records[index]) for index in range(len(source))]
    wanted = result.row(like)["nmf"]

    def average(alpha: float) -> TunedAverage:
        scores = []
        for track, video in zip(result.tracks[base], videos, strict=True):
            smooth = track._replace(landmarks=filters.exponential_moving_average(track.landmarks, alpha))
            scores.append(score_track(smooth, video, source.scheme, config.data.normalizer))
        nme = metrics.mean(np.array([metrics.mean(score.nme) for score in scores]))
        return TunedAverage(alpha, nme, metrics.mean(np.array([score.nmf for score in scores])))

    # From no smoothing downwards the flicker falls and then, with the lag, rises again: the first crossing counts.
    if average(1.0).nmf <= wanted:
        return None
    grid = np.arange(0.9, 0.25, -0.1)
    crossed = next((alpha for alpha in grid if average(alpha).nmf <= wanted), None)
    if crossed is None:
        return None
    low, high = float(crossed), float(crossed) + 0.1
    for _ in range(6):
        middle = (low + high) / 2
        low, high = (low, middle) if average(middle).nmf > wanted else (middle, high)
    return average(low)


def evaluate_videos(follower: Follower, source: VideoSource, config: Config) -> VideoResult:
    """Tracks and measures every video of a source, in batches of like length."""
    count = len(source)
    keys = [source.records[index]["key"].decode() for index in range(count)]
    tracks: dict[str, list[Any]] = {method.name: [None] * count for method in follower.methods}
    scores: dict[str, list[Any]] = {method.name: [None] * count for method in follower.methods}
    with progress(total=count, desc=f"{source.name} {source.split}", unit="video") as bar:
        for positions in by_length(source, config.video.batch_size):
            videos = [video_of(source.records[index]) for index in positions]
            for name, found in follower(videos).items():
                for index, video, track in zip(positions, videos, found, strict=True):
                    tracks[name][index] = track
                    scores[name][index] = score_track(track, video, source.scheme, config.data.normalizer)
            bar.update(len(positions))
    return VideoResult(keys, tracks, scores)

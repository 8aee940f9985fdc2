"""Evaluation of tracks on labelled videos: NME, flicker (NMF), stability, jitter."""

from typing import Any, NamedTuple

import numpy as np

from jaxlm import metrics
from jaxlm.config import Config
from jaxlm.data.sources import VideoSource, by_length
from jaxlm.data.video_batches import Video, video_of
from jaxlm.predict.follower import Follower, Track
from jaxlm.schemes import Scheme, normalizer
from jaxlm.support.progress import progress
from jaxlm.video import filters


class Score(NamedTuple):
    """Errors of one track, as fractions except for `nmf`.

    Attributes:
        nme: (T,) NME of each frame; NaN where no landmark exists.
        flicker: (T,) see `jaxlm.metrics.flicker`; NaN at the first frame.
        nmf: variant "released" of `jaxlm.metrics.nmf`.
        nmf_paper: variant "paper" of `jaxlm.metrics.nmf`, Eq. (11).
        stability: see `jaxlm.metrics.stability`.
        jitter: see `jaxlm.metrics.jitter`.
    """

    nme: np.ndarray
    flicker: np.ndarray
    nmf: float
    nmf_paper: float
    stability: float
    jitter: float


def score_track(track: Track, video: Video, scheme: Scheme, normalizer_name: str) -> Score:
    """Measures one track against the video's labels."""
    truth, mask, pred = video.landmarks, video.mask, track.landmarks
    lengths = [
        normalizer(normalizer_name, scheme, *of_frame) for of_frame in zip(truth, mask, video.boxes, strict=True)
    ]
    # Motion between frames is small compared with the coordinates, so float32 needs an origin near the face.
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
    """Tracks and scores of one split of videos.

    Attributes:
        keys: key of each video.
        tracks: method -> a track for each video.
        scores: method -> a score for each video.
    """

    keys: list[str]
    tracks: dict[str, list[Track]]
    scores: dict[str, list[Score]]

    def values(self, method: str) -> dict[str, np.ndarray]:
        """Of each video: NME, stability and jitter in percent, both NMFs."""
        scores = self.scores[method]
        return {
            "nme": 100 * np.array([metrics.mean(score.nme) for score in scores]),
            "nmf": np.array([score.nmf for score in scores]),
            "nmf_paper": np.array([score.nmf_paper for score in scores]),
            "stability": 100 * np.array([score.stability for score in scores]),
            "jitter": 100 * np.array([score.jitter for score in scores]),
        }

    def row(self, method: str) -> dict[str, float]:
        """Means of `values` over the videos, and the restarts in percent of the frames."""
        restarted = np.concatenate([track.restarted for track in self.tracks[method]])
        means = {name: metrics.mean(values) for name, values in self.values(method).items()}
        return {**means, "restarts": 100 * float(restarted.mean()) if len(restarted) else float("nan")}

    def change(self, method: str, name: str) -> tuple[float, float, float] | None:
        """Relative change of a mean from the first method, and its 95 % interval, over the videos that both have.

        None for the first method itself, where no video has both values, and where the first method's mean is 0.
        """
        first = next(iter(self.scores))
        values, reference = self.values(method)[name], self.values(first)[name]
        both = np.isfinite(values) & np.isfinite(reference)
        if method == first or not both.any() or reference[both].mean() == 0:
            return None
        change = metrics.relative_change(values, reference)
        return change if np.isfinite(change).all() else None


class TunedAverage(NamedTuple):
    """Exponential moving average that is tuned to the flicker of another method.

    Attributes:
        alpha: α of the average, in (0, 1].
        nme: NME, mean over the videos, as a fraction.
        nmf: NMF, mean over the videos, variant "released".
        change: relative change of the NME from this average to the other method, and its 95 % interval over the videos.
    """

    alpha: float
    nme: float
    nmf: float
    change: tuple[float, float, float]

    def row(self) -> dict[str, float]:
        """Values for tables, with the NME in percent as in `VideoResult.row`."""
        return {"alpha": self.alpha, "nme": 100 * self.nme, "nmf": self.nmf}


def tune_average(
    result: VideoResult, source: VideoSource, config: Config, *, base: str = "frame", like: str = "rwr"
) -> TunedAverage | None:
    """Moving average of the landmarks of `base` with the NMF of `like`, a baseline for the NME of `like`.

    Args:
        result: tracks and scores of the videos.
        source: the same videos with their labels.
        config: config of the experiment; its normaliser is used.
        base: method whose landmarks are averaged.
        like: method whose NMF the average must reach.

    Returns:
        The average; None if either method was not run, `like` flickers no less than `base`, or no α down to 0.3
        reaches the NMF of `like`.
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
        nme = np.array([metrics.mean(score.nme) for score in scores])
        change = metrics.relative_change(result.values(like)["nme"], 100 * nme)
        return TunedAverage(alpha, metrics.mean(nme), metrics.mean(np.array([score.nmf for score in scores])), change)

    # As α decreases from 1, the flicker falls and later rises again with the lag; the first crossing is taken.
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
    """Tracks every video of a source, in batches of similar length, and measures the tracks."""
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

"""Rendered videos of moving faces, with exact landmarks in every frame.

Head, expression, light and camera follow smooth random curves. An easy clip is sharp and unobstructed. A hard clip
makes landmarks ambiguous: objects pass in front of the face, the camera shakes, motion blurs the frames, the light
flickers, and the frames are noisy and heavily compressed. The same seed and index give the same pixels.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from scipy.ndimage import gaussian_filter1d

from jaxlm import geometry
from jaxlm.data.rendered import paint
from jaxlm.data.rendered.faces import RENDERER, Scene, check_contour, render_faces, sample_scene
from jaxlm.data.sets.wflw import WflwV
from jaxlm.data.video_builder import write_labels
from jaxlm.data.video_files import VideoWriter
from jaxlm.face3d import head
from jaxlm.support.progress import progress

FPS = 25
_BATCH = 16
_SHAKE_MARGIN = 0.15  # width of the background beyond each edge, over the picture's side


class Clip(NamedTuple):
    """One rendered video.

    Attributes:
        frames: (T, S, S, 3) uint8 RGB.
        landmarks: (T, 98, 2) in pixels.
        bboxes: (T, 4) boxes around the landmarks, smoothed over time like those of a stable detector.
    """

    frames: np.ndarray
    landmarks: np.ndarray
    bboxes: np.ndarray


class _Motion(NamedTuple):
    """Scene, camera offset and exposure of every frame of a video.

    Attributes:
        scenes: scenes of the frames; every array has a leading time axis (T, ...).
        shake: (T, 2) camera offset in pixels.
        exposure: (T,) factor of the brightness.
    """

    scenes: Scene
    shake: np.ndarray
    exposure: np.ndarray


def film(seed: int, index: int, *, num_frames: int, size: int, hard: bool, contour: str = "2d") -> Clip:
    """Renders video `index` of the endless set that `seed` determines: `num_frames` frames of `size` × `size` pixels.

    `hard` chooses a hard clip instead of an easy one. See `jaxlm.data.rendered.faces.render_faces` for `contour`.
    """
    rng = np.random.default_rng([seed, index, int(hard)])
    motion = _sample_motion(rng, num_frames, size, hard)
    texture, hair = paint.paint_texture(rng)
    background = paint.paint_background(rng, size + 2 * round(_SHAKE_MARGIN * size))
    wardrobe, defects = (int(rng.integers(2**31)) for _ in range(2))
    occluders = [_sample_occluder(rng, num_frames, size) for _ in range(2 + num_frames // 24)] if hard else []
    defects = np.random.default_rng(defects)
    frames, landmarks = [], []
    for first in range(0, num_frames, _BATCH):
        chosen = np.arange(first, first + _BATCH).clip(max=num_frames - 1)
        scenes = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], motion.scenes)
        rendering = jax.device_get(render_faces(scenes, np.stack([texture] * _BATCH), size, contour))
        for i, time in enumerate(range(first, min(first + _BATCH, num_frames))):
            behind = _behind(background, motion.shake[time], size)
            neck, scale = rendering.landmarks[i, 16], float(scenes.scale[i])
            behind = paint.paint_shoulders(behind, np.random.default_rng(wardrobe), neck, scale, hair)
            alpha = cv2.GaussianBlur(rendering.alpha[i], (0, 0), 0.6)[..., None]
            image = rendering.color[i] * alpha + behind * (1 - alpha)
            for occluder in occluders:
                image = occluder.paint(image, time, motion.shake[time])
            frames.append(np.clip(image * motion.exposure[time], 0, 255).astype(np.uint8))
            landmarks.append(rendering.landmarks[i])
    points = np.stack(landmarks)
    if hard:
        frames = _spoil(frames, points, defects)
    boxes = np.stack([geometry.box_of_points(shape) for shape in points])
    return Clip(np.stack(frames), points, _smooth(boxes, 2.0))


def _sample_motion(rng: np.random.Generator, num_frames: int, size: int, hard: bool) -> _Motion:
    scene = sample_scene(rng, size)
    seconds = np.arange(num_frames) / FPS

    def wave(amplitude: Any, slowest: float = 0.15, fastest: float = 0.6) -> np.ndarray:
        """Sum (T, *shape of amplitude) of two sine waves of random phase, at most `amplitude` in magnitude."""
        amplitude = np.asarray(amplitude, np.float64)
        total = np.zeros((num_frames, *amplitude.shape))
        for share in (0.65, 0.35):
            hertz, phase = rng.uniform(slowest, fastest, amplitude.shape), rng.uniform(0, 2 * np.pi, amplitude.shape)
            total += share * amplitude * np.sin(2 * np.pi * hertz * seconds.reshape(-1, *[1] * amplitude.ndim) + phase)
        return total

    liveliness = 1.6 if hard else 1.0
    angles = scene.angles * [0.7, 0.8, 0.8] + wave(liveliness * np.deg2rad([16.0, 7.0, 7.0]))
    shake = _tremor(rng, num_frames, 0.008 * size) if hard else np.zeros((num_frames, 2))
    center = scene.center + wave(liveliness * np.full(2, 0.035 * size)) + shake
    light = scene.light + wave(np.array([0.5, 0.3, 0.2]))
    light /= np.linalg.norm(light, axis=1, keepdims=True)
    exposure = 1 + wave(0.06) + (0.06 * rng.standard_normal(num_frames) if hard else 0.0)
    still: Any = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], num_frames, axis=0), scene)
    moving = dict(
        expression=_talk(rng, scene.expression, num_frames, wave),
        angles=angles,
        scale=scene.scale * (1 + wave(0.04)),
        center=center,
        light=light,
    )
    scenes = still._replace(**{name: value.astype(np.float32) for name, value in moving.items()})
    return _Motion(scenes, shake, exposure)


def _talk(rng: np.random.Generator, start: np.ndarray, num_frames: int, wave) -> np.ndarray:
    """Strengths (T, 10) of the expressions: the mouth speaks, the eyes blink, the others change slowly."""
    names = {name: number for number, name in enumerate(head.EXPRESSIONS)}
    strength = np.clip(start + wave(np.full(len(start), 0.25)) * (start > 0), 0, 1)
    speech = np.clip(wave(0.9, 1.5, 3.5) + wave(0.5, 0.2, 0.5), 0, 1)
    strength[:, names["mouth_open"]] = speech
    strength[:, names["mouth_closed"]] = np.clip(0.9 - 2.5 * speech, 0, 1)
    strength[:, names["mouth_aside"]] = start[names["mouth_aside"]]
    strength[:, names["smile"]] = np.clip(start[names["smile"]] + wave(0.4), 0, 1)
    eyes = np.minimum(start[names["eyes_closed"]], 0.4) * np.ones(num_frames)
    time = int(rng.integers(5, 30))
    while time < num_frames:
        blink = np.exp(-(((np.arange(num_frames) - time) / 1.6) ** 4))
        eyes, time = np.maximum(eyes, blink), time + int(rng.integers(20, 75))
    strength[:, names["eyes_closed"]] = eyes
    return strength


def _tremor(rng: np.random.Generator, num_frames: int, strength: float) -> np.ndarray:
    """Camera offset (T, 2) in pixels: an autoregressive process of `strength` pixels a frame, with a few jolts."""
    push = rng.standard_normal((num_frames, 2)) * strength * (1 + 3 * (rng.random((num_frames, 1)) < 0.06))
    offset = np.zeros((num_frames, 2))
    for time in range(1, num_frames):
        offset[time] = 0.85 * offset[time - 1] + push[time]
    return offset


class _Occluder(NamedTuple):
    """Object that crosses the picture on a straight line in front of the face and rotates.

    Attributes:
        start: frame at which the crossing starts.
        duration: number of frames of the crossing.
        path: (2, 2) centre in pixels at the start and at the end of the crossing.
        axes: (2,) half sides in pixels.
        angles: (2,) rotation in degrees at the start and at the end of the crossing.
        color: (3,) RGB.
        stripes: amplitude of the stripes, added to the colour; 0 for none.
        round: true for an ellipse, false for a rectangle.
    """

    start: int
    duration: int
    path: np.ndarray
    axes: np.ndarray
    angles: np.ndarray
    color: np.ndarray
    stripes: float
    round: bool

    def paint(self, image: np.ndarray, time: int, shake: np.ndarray) -> np.ndarray:
        """Picture (S, S, 3) float with the object painted at its position in frame `time`."""
        progress = (time - self.start) / self.duration
        if not 0 <= progress <= 1:
            return image
        center = self.path[0] + progress * (self.path[1] - self.path[0]) + shake
        angle = np.deg2rad(self.angles[0] + progress * (self.angles[1] - self.angles[0]))
        y, x = np.mgrid[: image.shape[0], : image.shape[1]] - center[::-1, None, None]
        u = (np.cos(angle) * x + np.sin(angle) * y) / self.axes[0]
        v = (np.cos(angle) * y - np.sin(angle) * x) / self.axes[1]
        edge = 1 - (np.hypot(u, v) if self.round else np.maximum(np.abs(u), np.abs(v)))
        cover = np.clip(edge * self.axes.min() / 1.5, 0, 1)[..., None]
        color = self.color + self.stripes * np.sin(9 * u)[..., None]
        return image + cover * (color - image)


def _sample_occluder(rng: np.random.Generator, num_frames: int, size: int) -> _Occluder:
    side = 1 if rng.random() < 0.5 else -1
    middle = size * rng.uniform([0.3, 0.3], [0.7, 0.8])
    away = 0.9 * size * side * np.array([np.cos(a := rng.uniform(-0.9, 0.9)), np.sin(a)])
    skin = rng.random() < 0.5
    return _Occluder(
        start=int(rng.integers(-10, max(num_frames - 15, 1))),
        duration=int(rng.integers(18, 50)),
        path=np.stack([middle - away, middle + away]),
        axes=size * rng.uniform([0.12, 0.1], [0.32, 0.24]),
        angles=rng.uniform(0, 180) + np.array([0, rng.uniform(-60, 60)]),
        color=paint.skin_tone(rng) if skin else rng.uniform(0, 255, size=3),
        stripes=0.0 if skin else float(rng.uniform(0, 60)),
        round=bool(rng.random() < 0.6),
    )


def _behind(background: np.ndarray, shake: np.ndarray, size: int) -> np.ndarray:
    """Part (size, size, 3) uint8 of the background that a camera sees after a shift by `shake` (2,) pixels."""
    margin = (background.shape[0] - size) / 2
    offset = np.clip(shake, -margin, margin) - margin
    shift = np.array([[1.0, 0.0, offset[0]], [0.0, 1.0, offset[1]]])
    return cv2.warpAffine(background, shift, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _spoil(frames: list[np.ndarray], landmarks: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Degrades frames by blur along the face's motion, varying defocus, sensor noise and JPEG compression."""
    size = frames[0].shape[0]
    velocity = np.gradient(landmarks.mean(axis=1), axis=0) if len(frames) > 1 else np.zeros((1, 2))
    shutter, quality, noise = rng.uniform(0.5, 1.5), int(rng.integers(12, 35)), rng.uniform(4, 16)
    focus = _smooth(np.clip(rng.standard_normal((len(frames), 1)) * 0.012 * size, 0, None), 1.0)[:, 0]
    spoiled = []
    for time, frame in enumerate(frames):
        frame = _streak(frame, shutter * velocity[time])
        if focus[time] > 0.3:
            frame = cv2.GaussianBlur(frame, (0, 0), float(focus[time]))
        frame = np.clip(frame + noise * rng.standard_normal(frame.shape), 0, 255).astype(np.uint8)
        _, encoded = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        spoiled.append(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1])
    return spoiled


def _streak(frame: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Blurs the frame along `motion` (2,) in pixels; the kernel is centred, so that the picture does not move."""
    length = float(np.linalg.norm(motion))
    if length < 1:
        return frame
    reach = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for step in np.linspace(-0.5, 0.5, 4 * reach):
        x, y = reach + step * motion
        left, top = int(x), int(y)
        for column, row, weight in (
            (left, top, (left + 1 - x) * (top + 1 - y)), (left + 1, top, (x - left) * (top + 1 - y)),
            (left, top + 1, (left + 1 - x) * (y - top)), (left + 1, top + 1, (x - left) * (y - top)),
        ):  # fmt: skip
            kernel[row, column] += weight
    return cv2.filter2D(frame, -1, kernel / kernel.sum())


def _smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    """Values (T, ...) smoothed over time by a Gaussian; the first and the last value are repeated at the ends."""
    return gaussian_filter1d(values, sigma, axis=0, mode="nearest")


class RenderedVideos(WflwV):
    """Rendered videos in the splits "hard" and "easy", written once to the cache in the layout of WFLW-V.

    `root` is not used.

    Args:
        num_videos: number of videos in each split.
        num_frames: number of frames of each video.
        size: side of the pictures in pixels.
        seed: seed of all randomness.
        contour: "2d" or "3d", see `jaxlm.data.rendered.faces.render_faces`.
    """

    READER = 2

    def __init__(
        self,
        root: str | Path,
        cache: str | Path,
        *,
        num_videos: int,
        num_frames: int,
        size: int,
        seed: int,
        contour: str = "2d",
        **options,
    ):
        del root
        check_contour(contour)
        if num_videos < 1 or num_frames < 1 or size < 32:
            raise ValueError("num_videos and num_frames must be at least 1 and size at least 32.")
        self.counts, self.size, self.seed, self.contour = (num_videos, num_frames), size, seed, contour
        settings = (num_videos, num_frames, size, seed, contour)
        identity = [f"renderer {RENDERER}", *self.reader_versions(), *map(str, settings)]
        digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]
        folder = Path(cache).expanduser() / "rendered_videos" / digest
        if not folder.exists():
            self._film(folder)
        super().__init__(folder, cache, **options)

    def _film(self, folder: Path) -> None:
        """Renders and writes all videos; the folder appears when it is complete."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
        count, num_frames = self.counts
        names = [(split, number) for split in self.LISTS for number in range(count)]
        try:
            for split, number in progress(names, desc="filming rendered faces", unit="video"):
                hard = split == "hard"
                clip = film(self.seed, number, num_frames=num_frames, size=self.size, hard=hard, contour=self.contour)
                key = f"{split}_{number:03d}"
                with VideoWriter(partial / "videos" / f"{key}.mp4", FPS) as video:
                    for frame in clip.frames:
                        video.write(frame)
                write_labels(partial, key, clip.landmarks, clip.bboxes)
            for split, name in self.LISTS.items():
                (partial / name).write_text("".join(f"{split}_{number:03d}\n" for number in range(count)))
            partial.chmod(0o755)
            os.replace(partial, folder)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            # Another process may have written the same folder first.
            if not (isinstance(error, OSError) and folder.exists()):
                raise

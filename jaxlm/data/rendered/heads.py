"""Heads that can be rendered and painted: the built-in one, and ICT-FaceKit's where a user has its file.

ICT-FaceKit (Li et al., CVPR 2020; MIT licence) has identity modes of scans, separate eyeballs, teeth and the mouth's
inside. It is painted by the same texture as the built-in head: its skin and eyeballs are mapped onto the built-in head,
features onto features, and the mouth's inside onto two spots of the texture at the back of the neck.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline, RBFInterpolator
from scipy.spatial import KDTree

from jaxlm.data.rendered import paint
from jaxlm.face3d import head
from jaxlm.face3d.ict_files import read_ict
from jaxlm.face3d.morphable import MorphableModel, make_model
from jaxlm.schemes import FACES68_OF_FACES98, FACES98

_SLIDES = 14  # positions along which a contour landmark may slide


class Head(NamedTuple):
    """A head for the renderer.

    Attributes:
        model: morphable model in millimetres, origin between the eyes, with 98 landmarks; its triangles are sorted by
            size.
        candidates: (33, n) vertices along which each contour landmark may slide towards the middle of the face.
        sizes: (F,) longest edge of each triangle in millimetres, over the mean and every expression.
        expression: (random generator, probability of a grin) -> coefficients (E,).
        strong: indices of expressions that make a face part of the subset "expression" if they are strong.
        spread: standard deviation of the identity coefficients.
    """

    model: MorphableModel
    candidates: np.ndarray
    sizes: np.ndarray
    expression: Callable[[np.random.Generator, float], np.ndarray]
    strong: tuple[int, ...]
    spread: float

    def patches(self, scale: float) -> tuple[tuple[int, int], ...]:
        """Pairs (number of triangles, side of their window in pixels) for `rasterizer.rasterize`, smallest first.

        The windows are large enough for up to `scale` pixels per millimetre.
        """
        # Identity modes, which stretch some triangles, are ignored: few edges appear along an axis at full length.
        pixels = scale * self.sizes + 1
        bounds = [math.ceil(np.quantile(pixels, share)) for share in (0.3, 0.6, 0.85, 0.97, 0.99, 1.0)]
        counts = np.diff([0, *np.searchsorted(pixels, bounds[:-1], side="right"), len(pixels)])
        return tuple((int(count), bound) for count, bound in zip(counts, bounds, strict=True))


@functools.lru_cache(maxsize=1)
def built_in() -> Head:
    """The built-in head."""
    model = head.head()
    sizes = head.triangle_sizes(*map(np.asarray, (model.mean, model.expression, model.triangles)))
    return Head(model, head.contour_candidates(model), sizes, sample_expression, (0, 2, 3, 4, 7), 0.85)


def sample_expression(rng: np.random.Generator, grins: float) -> np.ndarray:
    """Random strengths (10,) of `head.EXPRESSIONS`."""
    strength: dict[str, float] = {name: 0.0 for name in head.EXPRESSIONS}
    if grins and rng.random() < grins:
        for name, low, high in (("smile", 0.7, 1.4), ("mouth_open", 0.15, 0.5), ("upper_lip_up", 0.3, 1.0)):
            strength[name] = rng.uniform(low, high)
        if rng.random() < 0.4:
            strength["eyes_closed"] = rng.uniform(0, 0.6)
        return np.array(list(strength.values()))
    mouth = rng.random()
    if mouth < 0.5:
        strength["mouth_closed"] = rng.uniform(0.7, 1.0)
    elif mouth < 0.85:
        strength["mouth_open"] = rng.uniform(0, 1) ** 1.5
    for name, probability in (("smile", 0.4), ("frown", 0.1), ("pucker", 0.08), ("upper_lip_up", 0.12)):
        if rng.random() < probability:
            strength[name] = rng.uniform(0.2, 1.0)
    if rng.random() < 0.4:
        strength["brows_up" if rng.random() < 0.6 else "brows_down"] = rng.uniform(0.1, 1.0)
    if rng.random() < 0.35:
        strength["eyes_closed"] = 1.0 if rng.random() < 0.3 else rng.uniform(0, 0.7)
    if rng.random() < 0.2:
        strength["mouth_aside"] = rng.uniform(-1, 1)
    return np.array(list(strength.values()))


# ICT-FaceKit's vertices: skin of face and head, inside of the mouth, teeth, eyeballs.
_SKIN, _SOCKET, _TEETH, _EYEBALLS = (0, 11248), (11248, 13294), (17039, 21451), (21451, 24591)
_BALLS = _EYEBALLS[1] - _EYEBALLS[0]
# Probability and strength of its expressions; a name without side moves both sides, a little differently.
_ICT_EXPRESSIONS = (
    ("jawOpen", 0.35, 0.05, 0.6), ("mouthSmile", 0.35, 0.2, 1.0), ("mouthFrown", 0.1, 0.2, 0.9),
    ("mouthPucker", 0.08, 0.2, 0.9), ("mouthFunnel", 0.06, 0.2, 0.7), ("mouthPress", 0.1, 0.2, 0.9),
    ("mouthUpperUp", 0.12, 0.2, 0.8), ("mouthLowerDown", 0.12, 0.2, 0.8), ("mouthStretch", 0.08, 0.2, 0.8),
    ("mouthDimple", 0.08, 0.2, 0.8), ("mouthRollLower", 0.05, 0.2, 0.8), ("mouthRollUpper", 0.05, 0.2, 0.8),
    ("browDown", 0.18, 0.2, 1.0), ("browInnerUp", 0.18, 0.2, 1.0), ("browOuterUp", 0.15, 0.2, 1.0),
    ("cheekPuff", 0.04, 0.2, 0.8), ("cheekSquint", 0.12, 0.2, 1.0), ("noseSneer", 0.08, 0.2, 0.8),
    ("eyeSquint", 0.18, 0.2, 1.0), ("eyeWide", 0.1, 0.2, 1.0), ("mouthLeft", 0.06, 0.2, 0.8),
    ("mouthRight", 0.06, 0.2, 0.8), ("jawLeft", 0.04, 0.2, 0.6), ("jawRight", 0.04, 0.2, 0.6),
)  # fmt: skip
# Of its 68 landmarks those that lie on features: ridge of the nose, eyes, and the mouth's corners and middle.
_ICT_LANDMARKS = np.array([27, 28, 29, 30, *range(36, 56), 57, 59, 60, 62, 64, 66])
_ICT_NAMES = (*(name for name, *_ in _ICT_EXPRESSIONS), "eyeBlink")
_ICT_STRONG = ("jawOpen", "mouthSmile_L", "mouthFrown_L", "mouthPucker", "eyeBlink_L")


@functools.lru_cache(maxsize=1)
def ict_facekit(path: Path) -> Head:
    """The head of ICT-FaceKit, from its folder or file, see `jaxlm.face3d.ict_files.read_ict`.

    Raises:
        ValueError: if it cannot be read.
    """
    ict = read_ict(path)
    missing = [name for name in (*_ICT_STRONG, *_ICT_NAMES) if name not in {*ict.names, *_without_sides(ict.names)}]
    if missing:
        raise ValueError(f"{path} has no expression {missing[0]}: it is not ICT-FaceKit.")
    turn, scale, origin, shift = _alignment(ict.mean.astype(np.float64), ict.landmarks)
    kept = np.concatenate([np.arange(*part) for part in (_SKIN, _SOCKET, _TEETH, _EYEBALLS)])
    where = np.full(len(ict.mean), -1)
    where[kept] = np.arange(len(kept))
    mean = scale * (ict.mean[kept].astype(np.float64) - origin) @ turn.T + shift
    identity, expression = (
        scale * np.einsum("ij,nvj->vin", turn, modes[:, kept].astype(np.float64))
        for modes in (ict.identity, ict.expression)
    )
    triangles = where[ict.triangles]
    triangles = triangles[(triangles >= 0).all(axis=1)]
    sizes = head.triangle_sizes(mean, expression, triangles)
    order = np.argsort(sizes, kind="stable")
    flat = _on_built_in(mean, where[ict.landmarks])
    landmarks = _landmarks(mean, flat, where[ict.landmarks[:17]])
    uv = head.texture_coordinates(flat[:, 0] / 75.0, flat[:, 1])
    bounds = np.cumsum([end - start for start, end in (_SKIN, _SOCKET, _TEETH, _EYEBALLS)])
    uv[bounds[0] : bounds[1]], uv[bounds[1] : bounds[2]] = paint.INSIDE_UV, paint.TEETH_UV
    model = make_model(mean, identity, expression, landmarks, triangles=triangles[order], uv=uv)
    sample = functools.partial(_sample_ict_expression, ict.names)
    strong = tuple(ict.names.index(name) for name in _ICT_STRONG)
    return Head(model, _slides(mean[: bounds[0]], landmarks), sizes[order], sample, strong, 1.0)


def _without_sides(names: tuple[str, ...]) -> list[str]:
    return [name.removesuffix("_L") for name in names]


def _sample_ict_expression(names: tuple[str, ...], rng: np.random.Generator, grins: float) -> np.ndarray:
    strength = dict.fromkeys(names, 0.0)

    def move(name: str, value: float) -> None:
        for key in (name, f"{name}_L", f"{name}_R"):
            if key in strength:
                strength[key] = min(value * (rng.uniform(0.75, 1.25) if key != name else 1.0), 1.2)

    if grins and rng.random() < grins:
        for name, low, high in (("mouthSmile", 0.5, 1.0), ("mouthUpperUp", 0.2, 0.7), ("cheekSquint", 0.2, 1.0)):
            move(name, rng.uniform(low, high))
        move("jawOpen", rng.uniform(0.02, 0.3))
        move("mouthLowerDown", rng.uniform(0.0, 0.6))
    else:
        for name, probability, low, high in _ICT_EXPRESSIONS:
            if rng.random() < probability:
                move(name, rng.uniform(low, high))
    if rng.random() < 0.3:
        move("eyeBlink", 0.95 if rng.random() < 0.3 else rng.uniform(0, 0.6))
    return np.array([strength[name] for name in names])


def _alignment(mean: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """Rotation, scale, origin and shift that bring the inner landmarks onto those of the built-in head."""
    points, target = mean[landmarks[17:]], head.features98()[FACES68_OF_FACES98[17:]]
    origin, shift = points.mean(axis=0), target.mean(axis=0)
    u, s, vt = np.linalg.svd((points - origin).T @ (target - shift))
    return (u @ vt).T, s.sum() / ((points - origin) ** 2).sum(), origin, shift


def _flat(points: np.ndarray) -> np.ndarray:
    """Points (N, 3) unrolled: distance along the surface from the middle and height (N, 2), in millimetres."""
    return np.stack([75.0 * np.arctan2(points[:, 0], points[:, 2] - head.AXIS_Z), points[:, 1]], axis=1)


def _on_built_in(mean: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Where each vertex lies on the unrolled built-in head, so that features lie on features."""
    source = _flat(mean[landmarks[_ICT_LANDMARKS]])
    target = _flat(head.features98()[FACES68_OF_FACES98[_ICT_LANDMARKS]])
    far = np.array([(x, y) for x in (-230, -120, -80, 80, 120, 230) for y in (-170, -110, -50, 0, 50, 110)])
    far = np.concatenate([far, [(x, y) for x in (-40, 0, 40) for y in (-170, -135, 55, 110)]])
    field = RBFInterpolator(np.concatenate([source, far]), np.concatenate([target - source, 0.0 * far]), smoothing=0.01)
    flat = _flat(mean)
    return flat + field(flat)


def _nearest(points: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Index (M,) of the point of (N, D) that is nearest to each query (M, D)."""
    return np.asarray(KDTree(points).query(queries)[1])


def _landmarks(mean: np.ndarray, flat: np.ndarray, jaw: np.ndarray) -> np.ndarray:
    """98 vertices that lie beside the features, and beside its 17 vertices of the jaw, as on the built-in head."""
    skin, marked = _SKIN[1], head.landmarks98()
    wanted = _flat(marked)
    outer = _outer(mean[:skin], flat[:skin])
    landmarks = outer[_nearest(flat[outer], wanted)]
    line = CubicSpline(np.arange(17), mean[jaw])(np.linspace(0, 16, 400))
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    contour = np.stack([np.interp(np.linspace(0, length[-1], 33), length, column) for column in line.T], axis=1)
    landmarks[:33] = _nearest(mean[:skin], contour + (marked - head.features98())[:33])
    eyes = np.flatnonzero((np.arange(len(mean)) >= len(mean) - _BALLS) & (mean[:, 2] > mean[-_BALLS:, 2].max() - 8))
    landmarks[96:] = eyes[_nearest(flat[eyes], wanted[96:])]
    right = [i for i in range(98) if FACES98.flip[i] > i]  # exactly symmetric, as the mesh is
    landmarks[FACES98.flip[right]] = _nearest(mean * [-1, 1, 1], mean[landmarks[right]])
    return landmarks


def _outer(mean: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """Indices of the vertices that others do not cover: not those inside the nose and between the lips."""
    radius = np.hypot(mean[:, 0], mean[:, 2] - head.AXIS_Z)
    near = KDTree(flat).query_ball_point(flat, 2.0)
    return np.flatnonzero([radius[i] > radius[others].max() - 5.0 for i, others in enumerate(near)])


def _slides(skin: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    flat, candidates = _flat(skin), []
    for i, (across, height) in enumerate(flat[landmarks[:33]]):
        steps = np.linspace(0, 1, _SLIDES) * (0.65 if i < 11 or i > 21 else 0.0)
        candidates.append(_nearest(flat, np.stack([across * (1 - steps), np.full(_SLIDES, height)], axis=1)))
        candidates[-1][0] = landmarks[i]
    return np.array(candidates)

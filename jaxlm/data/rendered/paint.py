"""Paints the rendered head (skin, eyes, lips, brows, hair), and its background.

Features are drawn where the mean head has them, in texture coordinates, so that their edges, such as those of the
eyelids, stay beside the same landmarks under every identity and expression.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np
import scipy.special

from jaxlm.face3d import head

TEXTURE = 320  # side of a texture in pixels
INSIDE_UV, TEETH_UV = (0.0125, 0.9875), (0.05, 0.9875)  # spots at the back of the neck for the inside of the mouth
_UNIT = 0.5  # texture pixels per drawing unit; a drawing unit is about half a millimetre

_SKIN = np.array([[244, 214, 196], [232, 190, 165], [205, 158, 126], [160, 112, 82], [112, 74, 53], [78, 51, 38]])
_HAIR = np.array([[28, 22, 20], [52, 36, 28], [92, 62, 40], [150, 112, 70], [196, 160, 108], [150, 150, 150]])
_IRIS = np.array([[70, 46, 30], [96, 66, 38], [74, 96, 62], [84, 112, 138], [110, 124, 130]])


class _Layout(NamedTuple):
    """Features of the mean head, and where each texture pixel lies on it and what can grow there."""

    points: np.ndarray  # (98, 2) features in drawing units
    azimuth: np.ndarray  # (1, TEXTURE) degrees
    height: np.ndarray  # (TEXTURE, 1) millimetres
    hairline: np.ndarray  # (1, TEXTURE) height of the hairline over its height above the nose
    beard: np.ndarray  # (TEXTURE, TEXTURE) density in [0, 1]
    moustache: np.ndarray  # (TEXTURE, TEXTURE) density in [0, 1]


@functools.lru_cache(maxsize=1)
def _layout() -> _Layout:
    points = head.texture_of_points(head.features98()) * TEXTURE / _UNIT
    angles = np.linspace(-np.pi, np.pi, 2001)
    columns = head.texture_coordinates(angles, np.zeros_like(angles))[:, 0]
    centers = (np.arange(TEXTURE) + 0.5) / TEXTURE
    azimuth = np.rad2deg(np.interp(centers, columns, angles))
    height = head.TOP - centers * (head.TOP - head.BOTTOM)
    azimuth, height = azimuth[None].astype(np.float32), height[:, None].astype(np.float32)
    across = np.abs(azimuth)
    hairline = np.interp(across, [0, 45, 58, 75, 88, 125, 180], [0, 0, -12, -42, -78, -150, -175]).astype(np.float32)
    jaw = scipy.special.expit((0.5 * across - 58 - height) / 4)
    below = scipy.special.expit((height + 118) / 5)
    lips = np.exp(-((across / 19) ** 4) - (((height + 75) / 12) ** 4))
    beard = jaw * below * (across < 75) * (1 - lips)
    moustache = np.exp(-((across / 21) ** 4) - (((height + 61) / 5) ** 4))
    return _Layout(points, azimuth, height, hairline, beard, moustache)


def _drawing(x: float, y: float) -> np.ndarray:
    """Point (2,) in drawing units, `x` millimetres along the surface from the middle of the face, at height `y`."""
    azimuth = np.array([x / 85.0])
    return head.texture_coordinates(azimuth, np.array([y]))[0] * TEXTURE / _UNIT


def paint_texture(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Albedo (TEXTURE, TEXTURE, 3) uint8 of a random person, and the RGB colour (3,) of the hair."""
    skin = skin_tone(rng) * (1 + rng.uniform(-0.05, 0.05, size=3))
    hair = _tone(_HAIR, rng) * rng.uniform(0.7, 1.3)
    lips = np.clip(
        skin * rng.uniform(0.72, 0.98) * [1.02, 0.74, 0.76] + rng.uniform(0, 22) * np.array([1, 0, 0]), 0, 255
    )
    canvas = np.empty((TEXTURE, TEXTURE, 3), np.float32)
    mottled = 1 + 0.035 * _noise(rng, TEXTURE, 14) + 0.03 * _noise(rng, TEXTURE, 120)
    np.multiply(mottled[..., None], skin.astype(np.float32), out=canvas)
    _shade_features(canvas, skin, rng)
    _paint_mouth(canvas, lips, rng)
    for side in (-1, 1):
        _paint_brow(canvas, side, hair, rng)
    iris, gaze = _IRIS[rng.integers(len(_IRIS))] * rng.uniform(0.7, 1.3), rng.uniform([-4.5, -1.5], [4.5, 1.5])
    for side in (-1, 1):
        _paint_eye(canvas, side, iris, gaze, skin, rng)
    if rng.random() < 0.22:
        _paint_beard(canvas, hair, rng)
    if rng.random() < 0.93:
        _paint_hair(canvas, hair, rng)
    for (column, row), color in ((INSIDE_UV, (70, 28, 28)), (TEETH_UV, (226, 218, 204))):
        left, top = round(column * TEXTURE), round(row * TEXTURE)
        canvas[top - 4 : top + 4, left - 4 : left + 4] = np.array(color) * rng.uniform(0.6, 1.05)
    return np.clip(canvas, 0, 255, out=canvas).astype(np.uint8), hair


def skin_tone(rng: np.random.Generator) -> np.ndarray:
    """Random skin colour (3,) RGB."""
    return _tone(_SKIN, rng)


def _tone(palette: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    place = rng.uniform(0, len(palette) - 1)
    low = int(place)
    return palette[low] + (place - low) * (palette[min(low + 1, len(palette) - 1)] - palette[low]).astype(float)


def _noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


class _Mask(NamedTuple):
    """Coverage in [0, 1] of a window of the texture whose upper left pixel is (left, top)."""

    coverage: np.ndarray
    left: int
    top: int

    def __rmul__(self, factor: float) -> "_Mask":
        return self._replace(coverage=self.coverage * np.float32(factor))

    def within(self, other: "_Mask") -> "_Mask":
        """This mask multiplied by the coverage of `other`, which is zero outside the window of `other`."""
        full = np.zeros((TEXTURE, TEXTURE), np.float32)
        rows, columns = other.coverage.shape
        full[other.top : other.top + rows, other.left : other.left + columns] = other.coverage
        rows, columns = self.coverage.shape
        window = full[self.top : self.top + rows, self.left : self.left + columns]
        return self._replace(coverage=self.coverage * window)


def _blend(canvas: np.ndarray, mask: _Mask, color: np.ndarray, blur: float = 0.0) -> None:
    """Blends `color` into `canvas` in place by `mask`, whose edge is blurred by `blur` drawing units."""
    coverage = mask.coverage
    if blur:
        coverage = cv2.GaussianBlur(coverage, (0, 0), blur * _UNIT, borderType=cv2.BORDER_CONSTANT)
    rows, columns = coverage.shape
    window = canvas[mask.top : mask.top + rows, mask.left : mask.left + columns]
    window += coverage[..., None] * (np.asarray(color, np.float32) - window)


_MARGIN = 14  # pixels around a shape, for its blur
_SUB = 4  # fractional bits of the coordinates that OpenCV draws: 1/16 pixel


def _window(points: np.ndarray, spread: float = 0.0) -> tuple[np.ndarray, int, int]:
    """Empty window around texture pixels (N, 2), and the left and top of its upper left pixel."""
    low = np.floor(points.min(axis=0) - spread - _MARGIN).astype(int).clip(0, TEXTURE - 1)
    high = np.ceil(points.max(axis=0) + spread + _MARGIN).astype(int).clip(1, TEXTURE)
    return np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8), int(low[0]), int(low[1])


def _fixed(points: np.ndarray, left: int, top: int) -> np.ndarray:
    return np.round((points - [left, top]) * 2**_SUB).astype(np.int32)


def _polygon(points: np.ndarray) -> _Mask:
    pixels = points * _UNIT - 0.5
    mask, left, top = _window(pixels)
    cv2.fillPoly(mask, [_fixed(pixels, left, top)], 255, cv2.LINE_AA, _SUB)
    return _Mask(mask.astype(np.float32) / 255, left, top)


def _stroke(points: np.ndarray, thickness: float) -> _Mask:
    pixels = points * _UNIT - 0.5
    mask, left, top = _window(pixels, thickness)
    width = max(round(thickness * _UNIT), 1)
    cv2.polylines(mask, [_fixed(pixels, left, top)], False, 255, width, cv2.LINE_AA, _SUB)
    return min(thickness * _UNIT, 1.0) * _Mask(mask.astype(np.float32) / 255, left, top)


def _disc(center: np.ndarray, axes: tuple[float, float]) -> _Mask:
    pixel = np.asarray(center) * _UNIT - 0.5
    mask, left, top = _window(pixel[None], max(axes) * _UNIT)
    fixed = tuple(int(v) for v in _fixed(pixel[None], left, top)[0])
    half = tuple(round(a * _UNIT * 2**_SUB) for a in axes)
    cv2.ellipse(mask, fixed, half, 0, 0, 360, 255, -1, cv2.LINE_AA, _SUB)
    return _Mask(mask.astype(np.float32) / 255, left, top)


def _shade_features(canvas: np.ndarray, skin: np.ndarray, rng: np.random.Generator) -> None:
    """Paints soft colours that do not come from the light: cheeks, eye sockets, folds beside the nose, nostrils."""
    flush = rng.uniform(0, 0.35)
    for side in (-1, 1):
        _blend(canvas, flush * _disc(_drawing(side * 45, -38), (40, 34)), skin * [1.05, 0.82, 0.8], 16)
        _blend(canvas, rng.uniform(0.15, 0.4) * _disc(_drawing(side * 32, 2), (38, 24)), skin * 0.72, 9)
        fold = np.array([_drawing(side * x, y) for x, y in ((17, -44), (24, -54), (30, -68))])
        _blend(canvas, rng.uniform(0.1, 0.5) * _stroke(fold, 5), skin * 0.62, 3)
        wing = np.array([_drawing(side * x, y) for x, y in ((15, -38), (18.5, -44), (15, -50), (9, -51))])
        _blend(canvas, 0.55 * _stroke(wing, 4), skin * 0.55, 2)
        _blend(canvas, 0.95 * _disc(_drawing(side * 7, -50), (8, 4.4)), skin * 0.2, 1.5)
    _blend(canvas, 0.3 * _disc(_drawing(0, -89), (30, 6)), skin * 0.6, 5)
    _blend(canvas, 0.35 * _disc(_drawing(0, -54.5), (22, 4)), skin * 0.55, 3)


def _paint_mouth(canvas: np.ndarray, lips: np.ndarray, rng: np.random.Generator) -> None:
    points = _layout().points
    outer, upper, lower = points[76:88], points[88:93], points[[92, 93, 94, 95, 88]]
    for side, corner in ((-1, 76), (1, 82)):  # the fold beside a mouth runs on beyond its corner
        fold = points[corner] + np.array([(0, 0), (side * rng.uniform(2, 12), rng.uniform(-2, 3))])
        _blend(canvas, rng.uniform(0.3, 0.8) * _stroke(fold, 3), lips * 0.45, 1.0)
    shape = outer + np.where(outer[:, 1:] < points[76, 1], [0.0, -rng.uniform(0, 4)], [0.0, 0.0])
    _blend(canvas, rng.uniform(0.45, 0.95) * _polygon(shape), lips, 1.2)
    _blend(canvas, 0.35 * _stroke(points[[76, 77, 78, 79, 80, 81, 82]], 3), lips * 0.75, 1.5)
    inner = np.concatenate([upper, lower])
    _blend(canvas, _polygon(inner), np.array([52, 20, 20]) * rng.uniform(0.5, 1.3), 0.7)
    if rng.random() < 0.7:
        lower_teeth = upper * 0.55 + lower[::-1] * 0.45
        inset = np.clip((np.arange(5) - 2) * -2.0, -4, 4)
        teeth = np.concatenate([upper + np.stack([inset, 0 * inset], 1), lower_teeth[::-1]])
        _blend(canvas, _polygon(teeth), np.array([226, 218, 204]) * rng.uniform(0.75, 1.05), 0.6)
    _blend(canvas, 0.8 * _stroke(upper, 2), lips * 0.45, 0.8)


def _paint_brow(canvas: np.ndarray, side: int, hair: np.ndarray, rng: np.random.Generator) -> None:
    points = _layout().points
    upper, lower = (points[33:38], points[38:42]) if side < 0 else (points[42:47], points[47:51])
    ends = np.concatenate([upper, lower])
    _blend(canvas, rng.uniform(0.55, 0.95) * _polygon(ends), hair * 0.8, 1.8)


def _paint_eye(
    canvas: np.ndarray, side: int, iris: np.ndarray, gaze: np.ndarray, skin: np.ndarray, rng: np.random.Generator
) -> None:
    points = _layout().points
    lids, pupil = (points[60:68], points[96]) if side < 0 else (points[68:76], points[97])
    opening = _polygon(lids)
    _blend(canvas, opening, np.array([222, 214, 208]) * rng.uniform(0.8, 1.05), 0.8)
    corner = _stroke(lids[[0, 7, 6, 5, 4]], 4).within(opening)
    _blend(canvas, 0.5 * corner, skin * [0.95, 0.7, 0.68], 1.5)
    center = pupil + gaze * 2.2
    _blend(canvas, _disc(center, (13, 12.5)).within(opening), iris * 0.55, 0.6)
    _blend(canvas, _disc(center, (11, 10.5)).within(opening), iris, 1.0)
    _blend(canvas, _disc(center, (5, 5)).within(opening), np.array([12, 10, 10]), 0.6)
    _blend(canvas, 0.5 * _stroke(lids[[0, 1, 2, 3, 4]] + [0, 3.0], 5).within(opening), np.array([60, 48, 44]), 1.5)
    _blend(canvas, 0.9 * _disc(center + [-3.5, -4], (2.2, 2.2)).within(opening), np.array([255, 255, 255]), 0.5)
    _blend(canvas, 0.9 * _stroke(lids[[0, 1, 2, 3, 4]], rng.uniform(2, 4.5)), skin * 0.18, 0.9)
    _blend(canvas, 0.5 * _stroke(lids[[0, 7, 6, 5, 4]], 2), skin * 0.45, 0.9)
    corner = lids[0] if side < 0 else lids[4]  # lashes and the lid's fold run on beyond the outer corner
    lashes = corner + np.array([(-side * 4, -2), (side * rng.uniform(1, 10), rng.uniform(-4, 4))])
    _blend(canvas, rng.uniform(0.3, 0.9) * _stroke(lashes, 3), skin * 0.25, 1.0)
    crease = lids[[0, 1, 2, 3, 4]] - [0, rng.uniform(6, 10)]
    _blend(canvas, rng.uniform(0.2, 0.6) * _stroke(crease, 2.5), skin * 0.5, 1.2)


def _paint_hair(texture: np.ndarray, hair: np.ndarray, rng: np.random.Generator) -> None:
    layout = _layout()
    front = rng.uniform(50, 82)
    parting = rng.uniform(-0.12, 0.12) * layout.azimuth
    fringe = 40 * rng.uniform(0.0, 1.0) * (rng.random() < 0.25)
    line = (front - fringe + parting + layout.hairline).astype(np.float32) + 4 * _noise(rng, TEXTURE, 24)
    mask = scipy.special.expit((layout.height - line) / np.float32(rng.uniform(1.5, 4)))
    strands = cv2.GaussianBlur(rng.standard_normal((TEXTURE, TEXTURE), np.float32), (0, 0), 1.0, sigmaY=9.0)
    _cover(texture, mask, hair.astype(np.float32) * (1 + np.float32(2.2) * strands)[..., None])


def _paint_beard(texture: np.ndarray, hair: np.ndarray, rng: np.random.Generator) -> None:
    layout = _layout()
    density = np.maximum(layout.beard, layout.moustache) if rng.random() < 0.8 else layout.beard
    strength = np.float32(rng.uniform(0.2, 0.85))
    grain = np.clip(1 + np.float32(0.35) * rng.standard_normal((TEXTURE, TEXTURE), np.float32), 0, 2)
    _cover(texture, np.clip(strength * density * grain, 0, 1), (hair * 0.9).astype(np.float32))


def _cover(texture: np.ndarray, mask: np.ndarray, color: np.ndarray) -> None:
    """Blends `color` into the whole texture in place."""
    texture += mask[..., None] * (color - texture)


def paint_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Random background (size, size, 3) uint8: a gradient with shapes and noise, mostly blurred."""
    canvas = np.empty((size, size, 3), np.float32)
    vivid = rng.uniform(0, 1) ** 2
    canvas[:] = rng.uniform(10, 245) + vivid * rng.uniform(-120, 120, size=3)
    canvas += (rng.uniform(-60, 60, size=3) * np.linspace(-1, 1, size)[:, None])[:, None]
    for _ in range(rng.integers(0, 9)):
        grey = rng.uniform(0, 255)
        color = tuple(float(c) for c in grey + vivid * rng.uniform(-120, 120, size=3))
        a, b = rng.integers(0, size, size=(2, 2))
        if rng.random() < 0.5:
            cv2.rectangle(canvas, tuple(map(int, a)), tuple(map(int, b)), color, -1)
        else:
            axes = tuple(int(v) for v in rng.integers(4, size // 2, size=2))
            cv2.ellipse(canvas, tuple(map(int, a)), axes, float(rng.uniform(0, 180)), 0, 360, color, -1)
    canvas += rng.uniform(0, 18) * _noise(rng, size, int(rng.integers(4, 40)))[..., None]
    if rng.random() < 0.8:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.5, 6))
    return np.clip(canvas, 0, 255).astype(np.uint8)


def paint_shoulders(
    background: np.ndarray, rng: np.random.Generator, neck: np.ndarray, scale: float, hair: np.ndarray
) -> np.ndarray:
    """Background with clothes and, sometimes, long hair behind the head.

    `neck` (2,) is the pixel of the chin's landmark, `scale` the pixels per millimetre, `hair` (3,) the hair's colour.
    """
    canvas = background.copy()
    x, y = float(neck[0]), float(neck[1])
    if rng.random() < 0.4:
        center = (round(x), round(y - 85 * scale))
        axes = (round(rng.uniform(86, 105) * scale), round(rng.uniform(110, 160) * scale))
        cv2.ellipse(canvas, center, axes, 0, 0, 360, tuple(float(c) for c in np.clip(hair * 0.6, 0, 255)), -1)
    color = tuple(float(c) for c in rng.uniform(10, 240, size=3))
    top, wide = y + rng.uniform(28, 45) * scale, rng.uniform(160, 230) * scale
    outline = np.array(
        [[x - 50 * scale, top], [x + 50 * scale, top], [x + wide, top + 60 * scale], [x + wide, 4 * y + 400],
         [x - wide, 4 * y + 400], [x - wide, top + 60 * scale]]
    )  # fmt: skip
    cv2.fillPoly(canvas, [np.round(outline).astype(np.int32)], color, cv2.LINE_AA)
    return canvas

"""Things in front of rendered faces: hair, hats, glasses, hands, microphones and plain shapes; and cast shadows.

They are drawn into the finished picture, where the landmarks lie. Positions are given in the frame of the face: units
are its width and height, so that the things turn and scale with it.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np

from jaxlm.data.rendered.paint import skin_tone

# Probability of each kind of thing.
_HAIR, _FRINGE, _HAT, _GLASSES, _HAND, _MICROPHONE, _SHAPES = 0.22, 0.16, 0.12, 0.22, 0.06, 0.04, 0.1
_SHADOW = 0.2


class _Frame(NamedTuple):
    """Frame of a face in the picture: `origin` between the brows, `right` and `up` of unit length, and its size."""

    origin: np.ndarray
    right: np.ndarray
    up: np.ndarray
    width: float
    height: float

    def at(self, right: Any, up: Any) -> np.ndarray:
        """Pixels (..., 2) of points given in face widths to the right and face heights up."""
        along = np.asarray(right, np.float64)[..., None] * self.width * self.right
        return self.origin + along + np.asarray(up, np.float64)[..., None] * self.height * self.up


def _frame(landmarks: np.ndarray) -> _Frame:
    brows, chin = landmarks[33:51].mean(axis=0), landmarks[16]
    height = max(float(np.linalg.norm(brows - chin)), 4.0)
    up = (brows - chin) / height
    width = max(float(np.linalg.norm(landmarks[32] - landmarks[0])), 0.6 * height)
    return _Frame(brows, np.array([-up[1], up[0]]), up, width, height)


def paint_objects(
    image: np.ndarray, rng: np.random.Generator, landmarks: np.ndarray, hair: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Picture with things in front of the face, and the mask (H, W) bool of the pixels that they hide.

    Frames and light lenses of glasses hide nothing.

    Args:
        image: (H, W, 3) uint8.
        rng: source of all randomness.
        landmarks: (98, 2) in pixels.
        hair: (3,) RGB colour of the hair.
    """
    size = image.shape[0]
    canvas, covered = image.copy(), np.zeros((size, size), np.uint8)
    face = _frame(landmarks)
    if rng.random() < _SHADOW:
        _cast_shadow(canvas, rng, face)
    if rng.random() < _GLASSES:
        _paint_glasses(canvas, covered, rng, landmarks)
    if rng.random() < _FRINGE:
        _paint_strands(canvas, covered, rng, _fringe(rng, face), hair, face)
    if rng.random() < _HAIR:
        for side in (-1, 1):
            if rng.random() < 0.8:
                _paint_strands(canvas, covered, rng, _side_hair(rng, face, landmarks, side), hair, face)
    if rng.random() < _HAT:
        _paint_hat(canvas, covered, rng, face)
    if rng.random() < _HAND:
        _paint_hand(canvas, covered, rng, face, landmarks)
    if rng.random() < _MICROPHONE:
        _paint_microphone(canvas, covered, rng, face)
    if rng.random() < _SHAPES:
        _paint_shapes(canvas, covered, rng, landmarks)
    return canvas, covered.astype(bool)


def _fill(covered: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Coverage (H, W) in [0, 1] of a polygon (N, 2) with a soft edge; adds its pixels to `covered`."""
    mask = np.zeros(covered.shape, np.uint8)
    cv2.fillPoly(mask, [np.round(polygon * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    covered |= (mask > 127).astype(np.uint8)
    return cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), 0.008 * len(mask) + 0.3)


def _mix(canvas: np.ndarray, coverage: np.ndarray, color: np.ndarray) -> None:
    """Blends `color`, (3,) or (H, W, 3), into the canvas in place."""
    mixed = canvas + coverage[..., None] * (np.asarray(color, np.float32) - canvas)
    np.copyto(canvas, np.clip(mixed, 0, 255).astype(np.uint8))


def _wavy(rng: np.random.Generator, count: int, knots: int = 4) -> np.ndarray:
    """Smooth random curve (count,) with values of about unit size."""
    return np.interp(np.linspace(0, knots - 1, count), np.arange(knots), rng.standard_normal(knots))


def _fringe(rng: np.random.Generator, face: _Frame) -> np.ndarray:
    across = np.linspace(-0.58, 0.58, 12)
    parting, depth = rng.uniform(-0.5, 0.5), rng.uniform(-0.02, 0.22)
    lower = depth + rng.uniform(0.0, 0.6) * np.abs(across - parting) * rng.choice([-1, 1]) + 0.025 * _wavy(rng, 12, 6)
    top = np.linspace(0.6, -0.6, 8)
    return np.concatenate([face.at(across, lower), face.at(top, 0.85 - 0.5 * top**2)])


def _side_hair(rng: np.random.Generator, face: _Frame, landmarks: np.ndarray, side: int) -> np.ndarray:
    """Hair (N, 2) from the temple down along the contour of one side, over its edge."""
    contour = landmarks[:17] if side < 0 else landmarks[32:15:-1]
    reach = int(rng.integers(6, 15))
    inward = rng.uniform(-0.02, 0.16) + 0.03 * _wavy(rng, reach)
    inner = contour[:reach] - side * inward[:, None] * face.width * face.right
    start = face.at(side * np.array([rng.uniform(0.0, 0.3), rng.uniform(0.3, 0.45)]), np.array([0.55, 0.2]))
    end = inner[-1] - rng.uniform(0.1, 0.8) * face.height * face.up
    outer = face.at(side * np.linspace(rng.uniform(0.55, 0.9), 0.65, 5), np.linspace(-1.5, 0.6, 5))
    return np.concatenate([start, inner, end[None], outer])


def _paint_strands(canvas, covered, rng, polygon: np.ndarray, hair: np.ndarray, face: _Frame) -> None:
    size = len(canvas)
    grain = rng.standard_normal((size, size)).astype(np.float32)
    strands = cv2.GaussianBlur(grain, (0, 0), 0.7, sigmaY=0.05 * size)
    strands *= rng.uniform(0.1, 0.4) / max(float(strands.std()), 1e-6)
    tilt = float(np.rad2deg(np.arctan2(face.up[0], -face.up[1])))
    turn = cv2.getRotationMatrix2D((size / 2, size / 2), -tilt, 1.0)
    strands = cv2.warpAffine(strands, turn, (size, size), borderMode=cv2.BORDER_REFLECT)
    _mix(canvas, _fill(covered, polygon), hair * rng.uniform(0.5, 1.2) * (1 + strands)[..., None])


def _paint_hat(canvas, covered, rng, face: _Frame) -> None:
    low, span = rng.uniform(0.1, 0.32), rng.uniform(0.55, 0.72)
    bend = rng.uniform(-0.12, 0.12)
    across = np.linspace(-span, span, 12)
    edge = low + bend * (1 - (across / span) ** 2)
    height = rng.uniform(0.45, 0.8)
    crown = face.at(across[::-1], low + height * np.sqrt(np.clip(1 - (across[::-1] / (1.05 * span)) ** 2, 0, 1)))
    color = rng.uniform(0, 255, size=3) * rng.uniform(0.3, 1.0)
    _mix(canvas, _fill(covered, np.concatenate([face.at(across, edge), crown])), color)
    if rng.random() < 0.6:  # the brim
        wide = rng.uniform(0.9, 1.4)
        outline = [face.at(wide * across, edge + 0.03), face.at(wide * across[::-1], edge - rng.uniform(0.04, 0.12))]
        _mix(canvas, _fill(covered, np.concatenate(outline)), color * rng.uniform(0.4, 0.9))


def _paint_hand(canvas, covered, rng, face: _Frame, landmarks: np.ndarray) -> None:
    """Fingers from below or from the side, in the face's own colour."""
    size = len(canvas)
    column, row = np.clip(np.round(landmarks[[53, 57, 85]].mean(axis=0)), 0, size - 1).astype(int)
    skin = canvas[row, column].astype(np.float64) * rng.uniform(0.75, 1.15)
    tip = face.at(rng.uniform(-0.5, 0.5), rng.uniform(-1.1, -0.45))
    angle = rng.uniform(-1.0, 1.0)
    along = -np.cos(angle) * face.up + np.sin(angle) * face.right
    beside = np.array([-along[1], along[0]])
    thick = 0.12 * face.width * rng.uniform(0.8, 1.2)
    for finger in range(int(rng.integers(2, 5))):
        start = tip + beside * finger * thick + along * face.height * rng.uniform(0, 0.08)
        outline = [
            start + beside * thick * 0.45 * np.cos(t) - along * thick * 0.5 * np.sin(t)
            for t in np.linspace(0, np.pi, 7)
        ]
        outline += [
            start - beside * thick * 0.5 + along * face.height,
            start + beside * thick * 0.5 + along * face.height,
        ]
        _mix(canvas, _fill(covered, np.array(outline)), skin * rng.uniform(0.85, 1.05))


def _paint_microphone(canvas, covered, rng, face: _Frame) -> None:
    head = face.at(rng.uniform(-0.3, 0.3), rng.uniform(-1.15, -0.75))
    radius, color = face.width * rng.uniform(0.07, 0.14), rng.uniform(10, 90, size=3)
    circle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    _mix(canvas, _fill(covered, head + radius * np.stack([np.cos(circle), np.sin(circle)], axis=1)), color)
    along = -face.up + rng.uniform(-0.5, 0.5) * face.right
    beside = 0.5 * radius * face.right
    stick = np.array(
        [head - beside, head + beside, head + beside + 2 * face.height * along, head - beside + 2 * face.height * along]
    )
    _mix(canvas, _fill(covered, stick), color * rng.uniform(0.5, 1.5))


def _cast_shadow(canvas, rng, face: _Frame) -> None:
    """Darkens one side of a soft line through the face, as by a hat, a wall or the sun."""
    size = len(canvas)
    point, angle = face.at(rng.uniform(-0.3, 0.3), rng.uniform(-0.8, 0.3)), rng.uniform(0, 2 * np.pi)
    row, column = np.mgrid[:size, :size].astype(np.float32)
    distance = np.cos(angle) * (column - point[0]) + np.sin(angle) * (row - point[1])
    soft = face.width * rng.uniform(0.02, 0.25)
    shade = 1 - rng.uniform(0.3, 0.75) / (1 + np.exp(np.clip(-distance / soft, -30, 30)))
    np.copyto(canvas, (canvas * shade[..., None]).astype(np.uint8))


def _paint_shapes(canvas, covered, rng, landmarks: np.ndarray) -> None:
    """One or two plain ellipses or rectangles anywhere on the face."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    for _ in range(rng.integers(1, 3)):
        center = rng.uniform(low, high)
        span = (high - low).max() * rng.uniform(0.08, 0.28, size=2)
        angle = rng.uniform(0, 180)
        box = cv2.boxPoints(((float(center[0]), float(center[1])), (2 * float(span[0]), 2 * float(span[1])), angle))
        color = tuple(float(c) for c in (skin_tone(rng) if rng.random() < 0.5 else rng.uniform(0, 255, size=3)))
        shape = np.round(box).astype(np.int32)
        if rng.random() < 0.5:
            polygon = cv2.ellipse2Poly(
                tuple(map(int, center)), tuple(map(int, np.maximum(span, 2))), int(angle), 0, 360, 12
            )
            shape = np.asarray(polygon, np.int32)
        cv2.fillPoly(canvas, [shape], color, cv2.LINE_AA)
        cv2.fillPoly(covered, [shape], 1)


def _paint_glasses(canvas: np.ndarray, covered: np.ndarray, rng: np.random.Generator, landmarks: np.ndarray) -> None:
    left, right = landmarks[96], landmarks[97]
    apart = max(float(np.linalg.norm(right - left)), 6.0)
    tilt = float(np.rad2deg(np.arctan2(*(right - left)[::-1])))
    color = tuple(float(c) for c in rng.uniform(0, 90, size=3))
    thickness = max(round(apart * rng.uniform(0.02, 0.08)), 1)
    shade = rng.uniform(0.3, 0.95) if rng.random() < 0.4 else 0.0
    span = apart * rng.uniform(0.34, 0.44)
    widths = [max(abs(float(landmarks[b][0] - landmarks[a][0])), 3.0) / 28 for a, b in ((60, 64), (68, 72))]
    lenses = []
    for eye, width in zip((left, right), widths, strict=True):
        axes = (max(round(min(span, span * width / max(apart / 64, 1e-3))), 2), max(round(span * 0.8), 2))
        lenses.append((tuple(int(v) for v in np.round(eye)), axes))
    overlay = canvas.copy()
    for center, axes in lenses:
        cv2.ellipse(overlay, center, axes, tilt, 0, 360, (20.0, 20.0, 24.0), -1, cv2.LINE_AA)
        if shade > 0.6:
            cv2.ellipse(covered, center, axes, tilt, 0, 360, 1, -1)
    cv2.addWeighted(overlay, shade, canvas, 1 - shade, 0, dst=canvas)
    for center, axes in lenses:
        cv2.ellipse(canvas, center, axes, tilt, 0, 360, color, thickness, cv2.LINE_AA)
    across = (right - left) / apart
    bridge = [
        np.round(eye + sign * across * lens[1][0]) for eye, lens, sign in ((left, lenses[0], 1), (right, lenses[1], -1))
    ]
    cv2.line(canvas, tuple(map(int, bridge[0])), tuple(map(int, bridge[1])), color, thickness, cv2.LINE_AA)

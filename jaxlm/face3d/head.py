"""The built-in head: a procedural morphable model, designed by hand from anthropometry. It contains no scan.

Lengths are in millimetres; the origin lies between the eyes. The surface is a star-shaped grid of azimuth and height
around a vertical axis. Its radius passes through 98 features, the jaw line and some anchors, which were placed by hand.
Landmarks lie where annotators mark the features: up to 3 mm beside them, on the contour up to 10 mm. They are vertices,
so they follow every mode exactly. There are 40 identity modes and 10 expressions.
"""

import functools

import numpy as np
from scipy.interpolate import CubicSpline, PchipInterpolator, RBFInterpolator

from jaxlm.face3d.morphable import MorphableModel, make_model
from jaxlm.schemes import FACES98

AXIS_Z = -75.0  # z of the head's vertical axis
TOP, BOTTOM = 112.0, -177.0
EXPRESSIONS = (
    "mouth_open", "mouth_closed", "smile", "frown", "pucker",
    "brows_up", "brows_down", "eyes_closed", "upper_lip_up", "mouth_aside",
)  # fmt: skip

# Left half of the face (x < 0): features of the 98-point scheme as x, y, z. The contour is the outline from the front.
_CONTOUR = [
    (-75, -5, -62), (-74, -25, -59), (-71.5, -45, -54), (-68, -64, -47.5), (-61.5, -82.5, -37),
    (-50, -97, -24), (-36, -108.5, -8), (-19.5, -117.5, 5), (0, -120, 9),
]  # fmt: skip
_BROW_UPPER = [(-60, 13, -11), (-50.5, 20.5, -1.5), (-38.5, 23, 6), (-26, 22, 11.5), (-13.5, 18.5, 14)]
_BROW_LOWER = [(-14.5, 14, 13.5), (-26, 16.5, 11.5), (-38.5, 17.5, 6.5), (-50, 16, -1)]
_NOSE_RIDGE = [(0, 1, 15.5), (0, -11, 22.5), (0, -23.5, 30), (0, -36, 37)]
_NOSE_BASE = [(-14, -46, 16), (-7.5, -49, 21), (0, -50.5, 23.5)]
_EYE = [
    (-46, -2, -5.5), (-38.8, 3, 0), (-33, 4.3, 2), (-27.4, 3, 2.2), (-19.8, -3.3, 0.5),
    (-27.8, -5.5, 1.5), (-33, -6.1, 1), (-38.8, -5.5, -0.5),
]  # fmt: skip
_PUPIL = (-33, -0.6, 3.5)
_LIP_OUTER = [
    (-27, -73, 8), (-17, -66.5, 17), (-7, -63.3, 22.5), (0, -64.8, 23.3),
    (0, -84.6, 20.5), (-8.5, -83.6, 19.5), (-17.5, -80, 15.5),
]  # fmt: skip
_LIP_INNER = [(-23, -73, 9), (-7.5, -70.9, 19), (0, -71.2, 20), (0, -75.2, 18.8), (-7.5, -75, 18.3)]

# Where annotators mark the contour: behind the outline at the ears and the jaw, below it at the chin.
_JAW_LINE = [
    (-73, -7.5, -67), (-72.3, -27, -65.5), (-70, -47, -63), (-66.5, -66, -57.5), (-60.5, -84.5, -46),
    (-48.8, -99, -27.5), (-34.6, -110.5, -10.5), (-18.8, -121.5, 0), (0, -122.5, 5),
]  # fmt: skip

# How far from the features annotators mark the other landmarks: millimetres towards the middle of the face, and up.
_BESIDE = {
    33: (1.0, -0.4), 34: (1.6, -0.5), 35: (2.6, -0.7), 36: (1.9, -0.4), 37: (0.5, -1.5),
    38: (0.5, -1.5), 39: (1.9, -0.4), 40: (2.6, -0.7), 41: (1.6, -0.5),
    52: (0, -0.5), 53: (0, -1.4), 54: (0, -1.5), 55: (0.7, -1.8), 56: (1.0, -1.6), 57: (0, -2.2),
    60: (2.0, -0.4), 61: (2.9, 0.5), 62: (2.0, 0.2), 63: (1.1, -0.1),
    64: (-0.5, -0.2), 65: (-0.6, -0.8), 66: (0.6, -0.8), 67: (1.9, -0.7),
    76: (1.7, -0.7), 77: (2.6, -2.2), 78: (1.1, -2.0), 79: (0, -2.6), 86: (1.9, -0.3), 87: (2.6, -1.4),
    88: (2.2, 0), 89: (1.7, 0), 95: (2.2, 0.5),
}  # fmt: skip

# Below the jaw the surface falls back to the neck: azimuth in degrees, height, radius.
_UNDER_JAW = [
    (0, -131, 47), (-12, -131, 46), (-24, -128, 46), (-40, -119, 49), (-55, -107, 55), (-68, -96, 60), (-80, -82, 65),
    (0, -145, 38), (-30, -145, 38), (-60, -140, 40),
]  # fmt: skip

# Further points that the surface passes through, given for x ≤ 0.
_ANCHORS = [
    (-10, -10, 10), (-12, -24, 13), (-15.5, -41, 16), (-9, -41, 29), (-18, -49, 10), (-10, 5, 11), (0, 11, 15.5),
    (-38, -30, 5), (-52, -44, -6), (-30, -16, 3), (-52, -14, -9), (-63, -24, -19), (-26, -52, 9), (-33, -64, 4),
    (0, 38, 15), (-30, 40, 8), (0, 62, 7), (-38, 64, -6), (-61, 40, -27), (-66, 16, -32), (0, 85, -18),
    (0, -57.5, 21), (-12, -58, 19), (0, -91, 15.5), (0, -104, 18), (-15, -103, 13.5), (-46.5, -76, -7), (-37, -90, 0),
    (-63.5, -50, -28), (-64, -6, -28), (-12, -3, 6),
]  # fmt: skip


def _mirrored(points: list) -> list[tuple[float, float, float]]:
    """The points and, for those off the middle, their mirror images."""
    return [*points, *[(-x, y, z) for x, y, z in points if x != 0]]


def features98() -> np.ndarray:
    """Features (98, 3) of the mean head in millimetres, in the order of the 98-point scheme; the paint follows them."""
    points = np.zeros((98, 3))
    points[:33] = _contour(_CONTOUR)
    left = {
        **dict(zip(range(33, 38), _BROW_UPPER, strict=True)),
        **dict(zip(range(38, 42), _BROW_LOWER, strict=True)),
        **dict(zip(range(51, 55), _NOSE_RIDGE, strict=True)),
        **dict(zip(range(55, 58), _NOSE_BASE, strict=True)),
        **dict(zip(range(60, 68), _EYE, strict=True)),
        **dict(zip((76, 77, 78, 79, 85, 86, 87), _LIP_OUTER, strict=True)),
        **dict(zip((88, 89, 90, 94, 95), _LIP_INNER, strict=True)),
        96: _PUPIL,
    }
    for index, point in left.items():
        points[index] = point
        points[FACES98.flip[index]] = np.array(point) * [1 if FACES98.flip[index] == index else -1, 1, 1]
    return points


def _contour(half: list) -> np.ndarray:
    """Contour (33, 3) through the nine points of its left half."""
    left = np.array(half, np.float64)
    return CubicSpline(np.arange(17), np.concatenate([left, (left[:-1] * [-1, 1, 1])[::-1]]))(np.linspace(0, 16, 33))


def landmarks98() -> np.ndarray:
    """Landmarks (98, 3) of the mean head in millimetres: where annotators mark its features."""
    model = head()
    return np.asarray(model.mean, np.float64)[np.asarray(model.landmarks)]


def _marks(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Azimuth (98,) in radians and height (98,) in millimetres of the landmarks on the surface of the mean head."""
    azimuth, radius = _polar(features)
    height = features[:, 1].copy()
    for index, (inwards, up) in _BESIDE.items():
        for side, i in ((1, index), (-1, FACES98.flip[index]))[: 1 if FACES98.flip[index] == index else 2]:
            azimuth[i] += side * inwards / radius[i]
            height[i] += up
    line = _contour(_JAW_LINE)
    azimuth[:33], height[:33] = _polar(line)[0], line[:, 1]
    return azimuth, height


def _polar(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Azimuth (radians, 0 in front) and radius of points (N, 3) about the head's axis."""
    z = points[:, 2] - AXIS_Z
    return np.arctan2(points[:, 0], z), np.hypot(points[:, 0], z)


def _base_radius(azimuth: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Radius in millimetres of a skull and neck without features, at azimuths in radians and heights y."""
    front = 0.5 + 0.5 * np.cos(azimuth)
    heights = [-177, -147, -130, -112, -97, -80, -62, -42, -20, 20, 60, 80, 95, 105, 112]
    widths = [62, 52, 51, 54, 59, 65, 71, 74, 77, 79, 75, 64, 50, 33, 2]
    profile = PchipInterpolator(heights, widths)(y)
    depth = PchipInterpolator([-177, -137, -116, -64, 20, 112], [0.75, 0.75, 0.95, 1.12, 1.12, 1.12])(y)
    back = PchipInterpolator([-177, -112, -42, 20, 112], [1.35, 1.2, 1.2, 1.28, 1.2])(y)
    stretch = np.sqrt((np.sin(azimuth)) ** 2 + (np.cos(azimuth) * np.where(front > 0.5, depth, back)) ** 2)
    return profile * stretch


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Azimuths (radians) and heights (millimetres) of the grid, denser where features are small."""
    front = np.deg2rad(np.concatenate([np.linspace(0, 45, 16), np.linspace(49, 89, 10), np.linspace(96, 180, 13)]))
    azimuth = np.concatenate([-front[:0:-1], front])
    heights = [
        np.linspace(TOP, 38, 11), np.linspace(32, 12, 7), np.linspace(10, -8, 10), np.linspace(-11, -60, 14),
        np.linspace(-62, -70, 5), np.linspace(-71, -76, 8), np.linspace(-78, -92, 8),
        np.linspace(-96, -130, 9), np.linspace(-137, BOTTOM, 6),
    ]  # fmt: skip
    return azimuth, np.concatenate(heights)


@functools.lru_cache(maxsize=1)
def head() -> MorphableModel:
    """The built-in morphable model: about 5,000 vertices, 98 landmarks."""
    columns, rows = _grid()
    azimuth, y = (grid.ravel() for grid in np.meshgrid(columns, rows))
    features = features98()
    landmarks = _snap(azimuth, y, *_marks(features))
    anchors = np.concatenate([features, _contour(_JAW_LINE), np.array(_mirrored(_ANCHORS))])
    anchor_azimuth, anchor_radius = _polar(anchors)
    jaw = np.array([(side * np.deg2rad(a), y, r) for a, y, r in _UNDER_JAW for side in (1, -1)[: 2 if a else 1]])
    quiet = np.array([(a, h) for h in (-172, -147, -64, 0, 60, 100) for a in (-3.0, -2.2, 2.2, 3.0)])
    quiet = np.concatenate([quiet, [(a, h) for h in (-172, -142, 108) for a in (-1.2, -0.4, 0.4, 1.2)]])
    quiet = np.concatenate([quiet, [(a, h) for h in (-112, -66, -20, 20, 60) for a in (-1.75, 1.75)]])
    where = np.concatenate(
        [
            np.stack([anchor_azimuth, anchors[:, 1]], axis=1),
            jaw[:, :2],
            quiet,
        ]
    )
    offset = np.concatenate([anchor_radius, jaw[:, 2], _base_radius(quiet[:, 0], quiet[:, 1])])
    offset -= _base_radius(where[:, 0], where[:, 1])
    field = RBFInterpolator(where * [75.0, 1.0], offset, kernel="thin_plate_spline", smoothing=0.02)
    radius = _base_radius(azimuth, y) + field(np.stack([azimuth * 75.0, y], axis=1))
    radius = np.maximum(radius, 1.0) + _ears(azimuth, y)
    mean = np.stack([radius * np.sin(azimuth), y, radius * np.cos(azimuth) + AXIS_Z], axis=1)
    identity = _identity_modes(mean)
    expression = _expression_modes(mean)
    triangles = _triangles(len(rows), len(columns))
    triangles = triangles[np.argsort(triangle_sizes(mean, expression, triangles), kind="stable")]
    return make_model(mean, identity, expression, landmarks, triangles=triangles, uv=texture_coordinates(azimuth, y))


def triangle_sizes(mean: np.ndarray, expression: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Longest edge (F,) of each triangle in millimetres, over the mean head and every expression."""
    shapes = mean + np.moveaxis(np.concatenate([0 * expression[..., :1], expression], axis=-1), -1, 0)
    corners = shapes[:, triangles]
    edges = np.linalg.norm(corners - np.roll(corners, 1, axis=2), axis=-1)
    return edges.max(axis=(0, 2))


def contour_candidates(model: MorphableModel) -> np.ndarray:
    """Vertices (33, n) along which each contour landmark may slide.

    Annotators put the hidden half of the contour on the visible outline. A contour landmark slides along its row of the
    grid towards the middle of the face. Landmarks of the chin do not slide: their row repeats one vertex.
    """
    columns = len(_grid()[0])
    candidates = []
    for i, vertex in enumerate(np.asarray(model.landmarks[:33])):
        row, column = divmod(int(vertex), columns)
        count = 14 if i < 11 or i > 21 else 1
        step = 1 if column < columns // 2 else -1
        stops = column + step * np.arange(14).clip(max=count - 1)
        candidates.append(row * columns + stops)
    return np.array(candidates)


def texture_coordinates(azimuth: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Texture coordinates (N, 2), column and row in [0, 1]; most of the columns show the front of the face."""
    turn = azimuth / np.pi
    column = 0.5 + 0.5 * turn * (1.7 - 0.7 * np.abs(turn))
    return np.stack([column, (TOP - y) / (TOP - BOTTOM)], axis=1)


def texture_of_points(points: np.ndarray) -> np.ndarray:
    """Texture coordinates (N, 2) of points (N, 3) on the mean head."""
    return texture_coordinates(_polar(points)[0], points[:, 1])


def _snap(azimuth: np.ndarray, y: np.ndarray, target_azimuth: np.ndarray, target_y: np.ndarray) -> np.ndarray:
    """Moves the nearest free vertex onto each landmark, in place; returns their indices."""
    landmarks = np.zeros(len(target_y), np.int32)
    free = np.ones(len(y), bool)
    for i in np.argsort(np.abs(target_azimuth)):
        distance = np.hypot((azimuth - target_azimuth[i]) * 85.0, y - target_y[i])
        vertex = int(np.argmin(np.where(free, distance, np.inf)))
        azimuth[vertex], y[vertex] = target_azimuth[i], target_y[i]
        landmarks[i], free[vertex] = vertex, False
    return landmarks


def _triangles(rows: int, columns: int) -> np.ndarray:
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b = index[:-1], index[1:]
    right = np.roll(np.arange(columns), -1)
    upper = np.stack([a, b, a[:, right]], axis=-1)
    lower = np.stack([a[:, right], b, b[:, right]], axis=-1)
    return np.concatenate([upper.reshape(-1, 3), lower.reshape(-1, 3)]).astype(np.int32)


def _ears(azimuth: np.ndarray, y: np.ndarray) -> np.ndarray:
    along = np.exp(-(((y + 22) / 22) ** 4))
    return 17.0 * along * np.exp(-(((np.abs(azimuth) - np.deg2rad(104)) / 0.10) ** 2))


class _Mode:
    """Smooth local displacements (V, 3) of a head, symmetric left and right, of which modes are sums."""

    def __init__(self, mean: np.ndarray):
        self.x, self.y, self.z = mean.T
        self.front = 1 / (1 + np.exp(-(self.z + 55) / 8))
        self.side = np.sign(self.x)

    def at(self, x: float, y: float, sx: float, sy: float) -> np.ndarray:
        """Weight (V,): Gaussians at (±x, y) on the front of the head, with standard deviations sx and sy."""
        sides = {-x, x}
        return self.front * sum(np.exp(-(((self.x - side) / sx) ** 2 + ((self.y - y) / sy) ** 2) / 2) for side in sides)

    def push(
        self, weight: np.ndarray, out: float = 0.0, up: float = 0.0, forward: float = 0.0, spread: float = 6.0
    ) -> np.ndarray:
        """Weighted displacement in millimetres; `out` points away from the middle and fades within `spread` of it."""
        return weight[:, None] * np.stack(
            [out * np.tanh(self.x / spread), np.full_like(self.x, up), np.full_like(self.x, forward)], axis=1
        )

    def below(self, y: float, width: float) -> np.ndarray:
        return 1 / (1 + np.exp((self.y - y) / width))


def _identity_modes(mean: np.ndarray) -> np.ndarray:
    m = _Mode(mean)
    at, push = m.at, m.push
    centered = mean - [0, -40, AXIS_Z]
    jaw = m.below(-66, 10)
    modes = [
        centered * [0.055, 0, 0],  # head width
        centered * [0, 0.035, 0],  # head height
        centered * [0, 0, 0.05],  # head depth
        push(jaw * m.front, out=5.5, spread=30),  # jaw width
        push(m.below(-94, 7) * m.front, up=-4.0),  # chin height
        push(at(0, -111, 24, 13), forward=4.0),  # chin projection
        push(at(17, -113, 15, 11), up=-2.5, out=1.5, spread=12),  # chin breadth
        push(at(60, -32, 17, 21), out=4.0, forward=1.0, spread=30),  # cheekbones
        push(at(45, -60, 17, 20), out=3.0, forward=3.0, spread=30),  # cheeks
        push(at(0, 50, 60, 22), forward=3.5),  # forehead slope
        push(at(0, -42, 16, 10), up=-3.0) + push(at(0, -28, 10, 12), up=-1.0),  # nose length
        push(at(0, -38, 11, 11), forward=3.5),  # nose tip projection
        push(at(0, -40, 10, 7), up=2.5),  # nose tip rotation
        push(at(14, -46, 7, 8), out=2.8),  # nose width
        push(at(0, -8, 8, 14), forward=3.0),  # nose bridge height
        push(at(10, -10, 7, 14), out=1.8),  # nose bridge width
        push(at(0, -22, 7, 7), forward=2.5),  # nose hump
        push(at(33, -1, 12, 8), out=2.5) + push(at(34, 18, 16, 7), out=1.5),  # eye distance
        push(at(33, 4, 10, 4), up=1.5) + push(at(33, -6, 10, 4), up=-1.0),  # eye opening
        push(at(45, 0, 6, 6), up=2.2) + push(at(19, -1, 5, 5), up=-0.8),  # eye slant
        push(at(45, 0, 6, 6), out=2.0) + push(at(19, -1, 5, 5), out=-0.8),  # eye length
        push(at(32, 0, 14, 9), forward=-3.0),  # eye depth
        push(at(35, 19, 24, 7), up=3.0),  # brow height
        push(at(55, 16, 11, 7), up=2.5) + push(at(16, 17, 9, 7), up=-1.5),  # brow slant
        push(at(38, 21, 10, 6), up=2.0),  # brow arch
        push(at(30, 17, 26, 7), forward=2.8),  # brow ridge
        push(at(26, -73, 8, 8), out=3.0) + push(at(16, -73, 8, 9), out=1.5),  # mouth width
        push(at(0, -66, 18, 4), up=1.4),  # upper lip height
        push(at(0, -83, 16, 4), up=-1.6),  # lower lip height
        push(at(0, -74, 22, 12), up=2.5),  # mouth height
        push(at(0, -74, 20, 11), forward=2.5),  # lips projection
        push(at(26, -73, 7, 6), up=1.5),  # mouth corners
        push(at(0, -58, 12, 5), forward=-1.5) + push(at(0, -66, 6, 4), up=0.8),  # philtrum
        push(at(61, -82, 19, 18), out=3.5, up=-2.0, spread=30),  # jaw angle
        push(at(60, 30, 18, 26), out=3.0, spread=30),  # temples
        push(m.below(-130, 5), out=4.0, spread=30),  # neck
        np.stack([0.03 * (m.y + 40), 0 * m.x, 0 * m.x], axis=1),  # lean
        _one_sided(m, 32, 6, 24, up=1.0),  # left and right eye
        _one_sided(m, 26, -73, 14, up=1.0),  # crooked mouth
        _one_sided(m, 8, -40, 12, out=1.4),  # crooked nose
    ]
    return np.stack(modes, axis=-1)


def _one_sided(m: _Mode, x: float, y: float, size: float, up: float = 0.0, out: float = 0.0) -> np.ndarray:
    """Asymmetric displacement (V, 3): `up` has opposite signs on the two sides, `out` moves both sides the same way."""
    weight = m.at(x, y, size, size) * np.tanh(m.x / 10)
    return np.stack([np.abs(weight) * out, weight * up, 0 * weight], axis=1)


def _expression_modes(mean: np.ndarray) -> np.ndarray:
    m = _Mode(mean)
    at, push = m.at, m.push
    # The lower lip separates from the upper one along an ellipse; the chin below moves as a whole.
    sharp = 1 / (1 + np.exp((m.y + 73.2) / 0.7))
    ellipse = np.clip(1 - (m.x / 24) ** 2, 0, 1) ** 0.7
    lips = 1 / (1 + np.exp(-(m.y + 91) / 3.5))
    neck = 1 / (1 + np.exp(-(m.y + 131) / 5))
    cheeks = m.below(-84, 9) * np.exp(-((m.x / 58) ** 4))
    lower = m.front * neck * (lips * (sharp * ellipse + (1 - ellipse) * 0.6 * cheeks) + (1 - lips) * cheeks)
    upper_lip = at(0, -67, 15, 4.5) * (1 - sharp)
    lower_lip = at(0, -80, 15, 5.5) * sharp
    in_mouth = 1 / (1 + np.exp((np.abs(m.x) - 21.5) / 1.6))
    # A closing lid moves over the eye down to its lower edge; the skin above is stretched.
    lid = np.where(m.y < 4.3, np.clip(m.y + 5.5, 0, None), 9.8 * np.exp(-(((m.y - 4.3) / 5) ** 2)))
    lid = lid * m.front * np.exp(-(((np.abs(m.x) - 33) / 14) ** 4))
    narrow = np.exp(-((np.abs(m.x) / 20) ** 4))
    modes = [
        push(lower, up=-24.0, forward=-5.0) + push(at(26, -73, 7, 8), out=-2.5),
        push(lower_lip, up=2.2) + push(upper_lip, up=-1.9) + push(sharp * in_mouth * at(0, -75, 16, 3), up=1.7),
        push(at(25, -73, 9, 9), out=7.0, up=6.0, forward=-4.0)
        + push(at(42, -46, 14, 12), up=3.0, forward=4.0)
        + push(at(0, -66, 10, 4), up=1.0)
        + push(at(32, -6, 12, 5), up=1.2),
        push(at(25, -73, 9, 9), out=1.0, up=-6.0) + push(at(14, 19, 10, 8), up=3.0),
        push(at(22, -73, 11, 11), out=-8.0, forward=4.0) + push(at(0, -74, 14, 10) * narrow, forward=5.0),
        push(at(34, 21, 24, 8), up=7.0) + push(at(32, 5, 10, 3), up=1.5),
        push(at(24, 20, 18, 8), up=-5.0, out=-1.5) + push(at(32, 5, 10, 3), up=-1.0),
        push(lid, up=-0.9),
        push(at(12, -66, 12, 5) * (1 - sharp), up=4.0) + push(at(15, -48, 8, 8), up=2.0),
        np.stack([5.0 * at(0, -76, 24, 14), 0 * m.x, 0 * m.x], axis=1),
    ]
    return np.stack(modes, axis=-1)

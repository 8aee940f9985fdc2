"""Landmark schemes: the meaning of each index, mirror pairs, normalisers, boundary lines and parts.

On faces "left" and "right" are the viewer's, and the left of the image comes first, as in the annotations. On bodies
they are the person's.
"""

import dataclasses
import itertools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Line:
    """A line through landmarks, given by their indices in order; a closed line returns to its first landmark."""

    name: str
    points: tuple[int, ...]
    closed: bool = False


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A landmark annotation scheme.

    Attributes:
        name: name of the scheme in configs and on the command line.
        num_landmarks: number of landmarks K.
        mirror_pairs: pairs of indices that swap in a mirror image; the other landmarks keep their index.
        outer_eye_corners: the two landmarks whose distance is the normaliser "inter_ocular"; None for a body.
        pupils: two groups of landmarks; the normaliser "inter_pupil" is the distance of their means. None for a body.
        lines: boundary lines for drawing and for boundary heatmaps.
        parts: landmarks of each part: the five face parts of the local re-initialisation, or the joints of a body with
            left and right together.
        torso: the two landmarks whose distance is the normaliser "torso"; None for a face.
        own_names: name of each landmark, in a scheme of a user's own; errors are then reported by its parts.
    """

    name: str
    num_landmarks: int
    mirror_pairs: tuple[tuple[int, int], ...]
    outer_eye_corners: tuple[int, int] | None
    pupils: tuple[tuple[int, ...], tuple[int, ...]] | None
    lines: tuple[Line, ...]
    parts: dict[str, tuple[int, ...]]
    torso: tuple[int, int] | None = None
    own_names: tuple[str, ...] = ()

    @property
    def flip(self) -> np.ndarray:
        """Permutation (K,): landmark i of a mirrored image is landmark flip[i] of the original."""
        order = np.arange(self.num_landmarks)
        for a, b in self.mirror_pairs:
            order[a], order[b] = b, a
        return order

    @property
    def segments(self) -> np.ndarray:
        """Indices (S, 2) of the landmarks at both ends of each straight segment of the lines."""
        paths = [line.points + line.points[:1] if line.closed else line.points for line in self.lines]
        return np.array([pair for path in paths for pair in itertools.pairwise(path)], np.int64).reshape(-1, 2)

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Groups of landmarks that errors are reported for: contour, eyebrows, eyes, nose, mouth; a body's parts."""
        if self.own_names or self.outer_eye_corners is None:
            return self.parts
        words = {
            "contour": "contour",
            "brow": "eyebrows",
            "eye": "eyes",
            "nose": "nose",
            "lip": "mouth",
            "mouth": "mouth",
        }
        groups: dict[str, list[int]] = {name: [] for name in words.values()}
        for index, name in enumerate(self.names):
            groups[next(group for word, group in words.items() if word in name)].append(index)
        return {name: tuple(points) for name, points in groups.items() if points}

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each landmark: its line, or its part if it is on no line, and its place there: "left_eye_upper_2"."""
        if self.own_names:
            return self.own_names
        names = {}
        groups = [(line.name, line.points) for line in self.lines] + list(self.parts.items())
        for group, points in groups:
            for place, index in enumerate(points):
                names.setdefault(index, f"{group}_{place}")
        return tuple(names[index] for index in range(self.num_landmarks))


def _span(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1))


def _mirror(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(zip(left, right, strict=True))


def _reversed(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last - 1, -1))


FACES98 = Scheme(
    name="faces98",
    num_landmarks=98,
    mirror_pairs=(
        *_mirror(_span(0, 15), _reversed(32, 17)),
        *_mirror(_span(33, 37), _reversed(46, 42)),
        *_mirror(_span(38, 41), _reversed(50, 47)),
        *_mirror((55, 56), (59, 58)),
        *_mirror(_span(60, 64), _reversed(72, 68)),
        *_mirror(_span(65, 67), _reversed(75, 73)),
        *_mirror((76, 77, 78), (82, 81, 80)),
        *_mirror((87, 86), (83, 84)),
        *_mirror((88, 89, 95), (92, 91, 93)),
        (96, 97),
    ),
    outer_eye_corners=(60, 72),
    pupils=((96,), (97,)),
    lines=(
        Line("contour", _span(0, 32)),
        Line("left_brow_upper", _span(33, 37)),
        Line("left_brow_lower", (33, 41, 40, 39, 38)),
        Line("right_brow_upper", _span(42, 46)),
        Line("right_brow_lower", (50, 49, 48, 47, 46)),
        Line("nose_bridge", _span(51, 54)),
        Line("nose_base", _span(55, 59)),
        Line("left_eye_upper", _span(60, 64)),
        Line("left_eye_lower", (60, 67, 66, 65, 64)),
        Line("right_eye_upper", _span(68, 72)),
        Line("right_eye_lower", (68, 75, 74, 73, 72)),
        Line("upper_lip_outer", _span(76, 82)),
        Line("lower_lip_outer", (76, 87, 86, 85, 84, 83, 82)),
        Line("upper_lip_inner", _span(88, 92)),
        Line("lower_lip_inner", (88, 95, 94, 93, 92)),
    ),
    parts={
        "left_eye": (*_span(33, 41), *_span(60, 67), 96),
        "right_eye": (*_span(42, 50), *_span(68, 75), 97),
        "nose": _span(51, 59),
        "mouth": _span(76, 95),
        "contour": _span(0, 32),
    },
)

FACES68 = Scheme(
    name="faces68",
    num_landmarks=68,
    mirror_pairs=(
        *_mirror(_span(0, 7), _reversed(16, 9)),
        *_mirror(_span(17, 21), _reversed(26, 22)),
        *_mirror((31, 32), (35, 34)),
        *_mirror((36, 37, 38, 39, 40, 41), (45, 44, 43, 42, 47, 46)),
        *_mirror((48, 49, 50), (54, 53, 52)),
        *_mirror((59, 58), (55, 56)),
        *_mirror((60, 61, 67), (64, 63, 65)),
    ),
    outer_eye_corners=(36, 45),
    pupils=(_span(36, 41), _span(42, 47)),
    lines=(
        Line("contour", _span(0, 16)),
        Line("left_brow", _span(17, 21)),
        Line("right_brow", _span(22, 26)),
        Line("nose_bridge", _span(27, 30)),
        Line("nose_base", _span(31, 35)),
        Line("left_eye", _span(36, 41), closed=True),
        Line("right_eye", _span(42, 47), closed=True),
        Line("outer_lip", _span(48, 59), closed=True),
        Line("inner_lip", _span(60, 67), closed=True),
    ),
    parts={
        "left_eye": (*_span(17, 21), *_span(36, 41)),
        "right_eye": (*_span(22, 26), *_span(42, 47)),
        "nose": _span(27, 35),
        "mouth": _span(48, 67),
        "contour": _span(0, 16),
    },
)

COFW29 = Scheme(
    name="cofw29",
    num_landmarks=29,
    mirror_pairs=(
        (0, 1), (2, 3), (4, 6), (5, 7), (8, 9), (10, 11), (12, 14), (13, 15), (16, 17), (18, 19), (22, 23),
    ),
    outer_eye_corners=(8, 9),
    pupils=((16,), (17,)),
    lines=(
        Line("left_brow", (0, 4, 2, 5), closed=True),
        Line("right_brow", (1, 6, 3, 7), closed=True),
        Line("left_eye", (8, 12, 10, 13), closed=True),
        Line("right_eye", (9, 14, 11, 15), closed=True),
        Line("nose", (18, 21, 19, 20), closed=True),
        Line("outer_lip", (22, 24, 23, 27), closed=True),
        Line("inner_lip", (22, 25, 23, 26), closed=True),
    ),
    parts={
        "left_eye": (0, 2, 4, 5, 8, 10, 12, 13, 16),
        "right_eye": (1, 3, 6, 7, 9, 11, 14, 15, 17),
        "nose": (18, 19, 20, 21),
        "mouth": _span(22, 27),
        "contour": (28,),
    },
)  # fmt: skip

AFLW21 = Scheme(
    name="aflw21",
    num_landmarks=21,
    mirror_pairs=((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9), (12, 16), (13, 15), (17, 19)),
    outer_eye_corners=(6, 11),
    pupils=((7,), (10,)),
    lines=(
        Line("left_brow", (0, 1, 2)),
        Line("right_brow", (3, 4, 5)),
        Line("left_eye", (6, 7, 8)),
        Line("right_eye", (9, 10, 11)),
        Line("nose", (13, 14, 15)),
        Line("mouth", (17, 18, 19)),
    ),
    parts={
        "left_eye": (0, 1, 2, 6, 7, 8),
        "right_eye": (3, 4, 5, 9, 10, 11),
        "nose": (13, 14, 15),
        "mouth": (17, 18, 19),
        "contour": (12, 16, 20),
    },
)

AFLW19 = Scheme(
    name="aflw19",
    num_landmarks=19,
    mirror_pairs=((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9), (12, 14), (15, 17)),
    outer_eye_corners=(6, 11),
    pupils=((7,), (10,)),
    lines=(
        Line("left_brow", (0, 1, 2)),
        Line("right_brow", (3, 4, 5)),
        Line("left_eye", (6, 7, 8)),
        Line("right_eye", (9, 10, 11)),
        Line("nose", (12, 13, 14)),
        Line("mouth", (15, 16, 17)),
    ),
    parts={
        "left_eye": (0, 1, 2, 6, 7, 8),
        "right_eye": (3, 4, 5, 9, 10, 11),
        "nose": (12, 13, 14),
        "mouth": (15, 16, 17),
        "contour": (18,),
    },
)

LSP14 = Scheme(
    name="lsp14",
    num_landmarks=14,
    mirror_pairs=((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)),
    outer_eye_corners=None,
    pupils=None,
    lines=(
        Line("right_leg", (0, 1, 2)),
        Line("left_leg", (5, 4, 3)),
        Line("hips", (2, 3)),
        Line("right_arm", (6, 7, 8)),
        Line("left_arm", (11, 10, 9)),
        Line("shoulders", (8, 12, 9)),
        Line("right_side", (8, 2)),
        Line("left_side", (9, 3)),
        Line("head", (12, 13)),
    ),
    parts={
        "head": (12, 13),
        "shoulder": (8, 9),
        "elbow": (7, 10),
        "wrist": (6, 11),
        "hip": (2, 3),
        "knee": (1, 4),
        "ankle": (0, 5),
    },
    torso=(9, 2),
)

SCHEMES = {scheme.name: scheme for scheme in (FACES98, FACES68, COFW29, AFLW21, AFLW19, LSP14)}

# Indices of the 68 landmarks among WFLW's 98, in the order of 300-W.
FACES68_OF_FACES98 = np.array(
    [
        *range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60),
        60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75, *range(76, 96),
    ]
)  # fmt: skip


def get_scheme(name: str) -> Scheme:
    """The scheme of this name, or that of a JSON file or of such a file's text, see `jaxlm.scheme_files`.

    Raises:
        ValueError: if there is none; the message lists the names of all schemes.
    """
    from jaxlm import scheme_files  # which is about this module's classes

    text = self_contained(name)
    return scheme_files.parse_scheme(text) if text.startswith("{") else SCHEMES[text]


def self_contained(name: str) -> str:
    """A scheme as a config keeps it: the name of one of the package's, or the text of a JSON file.

    Raises:
        ValueError: if there is no such scheme or file.
    """
    from jaxlm import scheme_files

    if name.endswith(".json"):
        return scheme_files.read_scheme(name)
    if name not in SCHEMES and not name.startswith("{"):
        raise ValueError(
            f"There is no landmark scheme {name!r}; choose one of {', '.join(SCHEMES)}, or a JSON file of your own."
        )
    return name


def normalizers_of(scheme: Scheme) -> tuple[str, ...]:
    """Names of the normalisers that the scheme has the landmarks for."""
    return (*_point_groups(scheme), "box", "points_box", "diagonal")


def _point_groups(scheme: Scheme) -> dict[str, list[np.ndarray]]:
    """Maps the name of a normaliser to two groups of landmarks; it is the distance between their means."""
    pairs = {"inter_ocular": scheme.outer_eye_corners, "inter_pupil": scheme.pupils, "torso": scheme.torso}
    return {name: [np.atleast_1d(group) for group in pair] for name, pair in pairs.items() if pair is not None}


def normalizer(
    name: str, scheme: Scheme, landmarks: np.ndarray, mask: np.ndarray, bbox: np.ndarray | None = None
) -> float:
    """Normaliser of one face or body: the length that errors are divided by, in the pixels of `landmarks`.

    Args:
        name: "inter_ocular" (outer eye corners), "inter_pupil" (means of the eye points), "torso" (left shoulder to
            right hip), "box" (√(w·h) of `bbox`), "points_box" (√(w·h) of the box around the landmarks) or "diagonal"
            (diagonal of the box around the landmarks).
        scheme: scheme of `landmarks`.
        landmarks: (K, 2) in pixels.
        mask: (K,), true where a landmark exists.
        bbox: (4,) box in the same pixels, for "box"; None takes the box around the landmarks.

    Returns:
        The length, or 0 if landmarks that it needs are missing.

    Raises:
        ValueError: if the name is unknown or the scheme does not have the landmarks for it.
    """
    known = normalizers_of(scheme)
    if name not in known:
        raise ValueError(f"{scheme.name} has no normalizer {name!r}; choose one of {', '.join(known)}.")
    mask = mask.astype(bool)
    if name in ("box", "points_box", "diagonal"):
        if bbox is None or name != "box":
            if not mask.any():
                return 0.0
            bbox = np.concatenate([landmarks[mask].min(axis=0), landmarks[mask].max(axis=0)])
        width, height = bbox[2] - bbox[0], bbox[3] - bbox[1]
        return float(np.hypot(width, height) if name == "diagonal" else np.sqrt(max(width * height, 0.0)))
    groups = _point_groups(scheme)[name]
    if not all(mask[group].all() for group in groups):
        return 0.0
    left, right = (landmarks[group].mean(axis=0) for group in groups)
    return float(np.linalg.norm(left - right))


# For each AFLW21 landmark, those of the 68 whose mean replaces it. AFLW's ear points lie nearest to the third contour
# points (distances in `docs/tddfa.md`).
_OF_AFLW21 = {
    0: (17,), 1: (19,), 2: (21,), 3: (22,), 4: (24,), 5: (26,),
    6: (36,), 7: (37, 38, 40, 41), 8: (39,), 9: (42,), 10: (43, 44, 46, 47), 11: (45,),
    12: (2,), 13: (31,), 14: (30,), 15: (35,), 16: (14,),
    17: (60,), 18: (62, 66), 19: (64,), 20: (8,),
}  # fmt: skip


def from_68(scheme: str) -> np.ndarray:
    """Weights (K, 68), float32, that turn the 68 landmarks into those of `scheme`; each row sums to 1.

    Raises:
        ValueError: if the 68 landmarks do not contain those of the scheme.
    """
    aflw21 = [_OF_AFLW21[index] for index in range(AFLW21.num_landmarks)]
    groups = {
        FACES68.name: [(index,) for index in range(68)],
        AFLW21.name: aflw21,
        AFLW19.name: [group for index, group in enumerate(aflw21) if index not in (12, 16)],
    }
    if scheme not in groups:
        raise ValueError(f"The 68 landmarks do not contain those of {scheme!r}; choose one of {', '.join(groups)}.")
    weights = np.zeros((len(groups[scheme]), 68), np.float32)
    for row, group in enumerate(groups[scheme]):
        weights[row, list(group)] = 1.0 / len(group)
    return weights

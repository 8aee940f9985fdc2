"""Crop protocols: the box of the image that a model sees. The NME of one model changes by 0.2 between published crops.

A protocol maps the given box and the landmarks of a face to the crop box x1 y1 x2 y2 in image pixels. The crop box is a
square, except under "dpr", which stretches the given box.
"""

from collections.abc import Callable

import numpy as np

from jaxlm import geometry

Crop = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (given box (4,), existing landmarks (K', 2)) -> crop box (4,)


def _awing(box, points):
    """AWing on WFLW: square of 1.1 × the longer side of the given box."""
    del points
    return geometry.square_box(box, 1.1)


def _hih(box, points):
    """HIH and LDEQ: square around all landmarks and the corners of the given box."""
    corners = box.reshape(2, 2)
    return geometry.square_box(geometry.box_of_points(np.concatenate([points, corners])))


def _gt(box, points):
    """Square of 1.25 × the longer side of the box around the ground-truth landmarks."""
    del box
    return geometry.square_box(geometry.box_of_points(points), 1.25)


def _reinit(box, points):
    """Progressive re-initialisation, and LDEQ on video: square of 1.2 × the longer side of the given box."""
    del points
    return geometry.square_box(box, 1.2)


def _tddfa_box(box, points):
    """3DDFA_V2 with a detector's box: square of 1.58 × its mean side, centre moved down by 0.14 of the mean side."""
    del points
    side = (box[2] - box[0] + box[3] - box[1]) / 2
    center = (box[:2] + box[2:]) / 2 + np.array([0.0, 0.14 * side])
    return np.concatenate([center - 0.79 * side, center + 0.79 * side])


def _tddfa_landmarks(box, points):
    """3DDFA_V2 with landmarks: square of √2 × the longer side of the box around the landmarks."""
    del box
    return geometry.square_box(geometry.box_of_points(points), np.sqrt(2.0))


def _dpr(box, points):
    """Released weights of progressive re-initialisation: the given box, which the crop stretches to a square.

    Its corners fall on the centres of the first and the last of 128 pixels.
    """
    del points
    return geometry.scale_box(box, 128 / 127)


def _box(box, points):
    """Square of the longer side of the given box."""
    del points
    return geometry.square_box(box)


PROTOCOLS: dict[str, Crop] = {
    "awing": _awing,
    "hih": _hih,
    "gt": _gt,
    "reinit": _reinit,
    "ldeq_video": _reinit,
    "tddfa_box": _tddfa_box,
    "tddfa_landmarks": _tddfa_landmarks,
    "dpr": _dpr,
    "box": _box,
}


def looks_at_box(protocol: str) -> bool:
    """Whether the crop box of a protocol depends on the given box, not only on the landmarks."""
    points = np.array([[0.0, 0.0], [1.0, 1.0]])
    first, second = (PROTOCOLS[protocol](np.array(box), points) for box in ((0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 4.0, 4.0)))
    return not np.array_equal(first, second)


def crop_box(protocol: str, *, box: np.ndarray | None = None, points: np.ndarray | None = None) -> np.ndarray:
    """Crop box (4,) of a face under a protocol, of its box, its landmarks or both.

    Args:
        protocol: a key of `PROTOCOLS`.
        box: (4,) the given face box x1 y1 x2 y2; where it is None, the box around the landmarks stands in for it.
        points: (K', 2) the landmarks that exist, in image pixels; where there is none, or they coincide, the corners of
            the box stand in for them.

    Raises:
        ValueError: for an unknown protocol, or neither box nor landmarks.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"There is no crop protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}.")
    if points is None or not len(points) or (box is not None and np.ptp(points, axis=0).max() <= 0):
        if box is None:
            raise ValueError("A face without a box and without landmarks cannot be cropped.")
        points = np.asarray(box).reshape(2, 2)
    points = np.asarray(points, np.float64)
    box = geometry.box_of_points(points) if box is None else np.asarray(box, np.float64)
    return PROTOCOLS[protocol](box, points)

"""What applications ask of a face's landmarks: head pose, how open eyes and mouth are, aligned crops.

All functions take landmarks (K, 2) of the schemes faces68 or faces98, in pixels, and compute in NumPy.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxlm import geometry
from jaxlm.face3d import parameters
from jaxlm.schemes import FACES68_OF_FACES98
from jaxlm.support.pictures import warp

Landmarks = Float[np.ndarray, "K 2"]

SCHEMES, COUNTS = ("faces68", "faces98"), (68, 98)  # and their numbers of landmarks
_INNER = np.arange(17, 68)  # without the contour, whose landmarks are others on a turned head
# The crop of ArcFace (Deng et al., CVPR 2019), 112 × 112 pixels: eyes, tip of the nose, corners of the mouth.
_ARCFACE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
_ARCFACE_SIDE = 112


class Pose(NamedTuple):
    """Head pose in degrees, in the convention of 300W-LP (`jaxlm.face3d.parameters`).

    Attributes:
        yaw: in [−90, 90], positive where the nose points to the left of the picture.
        pitch: positive where the nose points up.
        roll: positive where the head is turned clockwise in the picture.
    """

    yaw: float
    pitch: float
    roll: float


class Openness(NamedTuple):
    """Heights of openings over their widths, 0 where they are closed; "left" is the viewer's.

    Attributes:
        left_eye: eye aspect ratio (Soukupová & Čech, CVWW 2016), about 0.3 for an open eye.
        right_eye: likewise.
        mouth: of the inner lips.
    """

    left_eye: float
    right_eye: float
    mouth: float


def to_faces68(landmarks: Landmarks) -> Float[np.ndarray, "68 2"]:
    """The 68 landmarks of a face with 68 or 98.

    Raises:
        ValueError: for another number.
    """
    if landmarks.shape == (98, 2):
        return landmarks[FACES68_OF_FACES98]
    if landmarks.shape != (68, 2):
        raise ValueError(f"Only faces with 68 or 98 landmarks have this, not landmarks of shape {landmarks.shape}.")
    return landmarks


def head_pose(landmarks: Landmarks) -> Pose:
    """Pose of the mean head that fits the landmarks of brows, eyes, nose and mouth best, under weak perspective.

    The least-squares affine camera is replaced by the nearest scaled rotation (DeMenthon & Davis, IJCV 1995, without
    iterations).
    """
    seen = to_faces68(landmarks)[_INNER].astype(np.float64) * [1.0, -1.0]  # y points up, as in the model
    head = _mean_head()
    camera = np.linalg.lstsq(head, seen - seen.mean(axis=0), rcond=None)[0].T
    left, _, right = np.linalg.svd(camera, full_matrices=False)
    rows = left @ right
    rotation = np.concatenate([rows, np.cross(rows[0], rows[1])[None]])
    pitch, yaw, roll = parameters.angles_of_rotation(rotation)
    return Pose(float(yaw), float(pitch), float(roll))


@functools.cache
def _mean_head() -> np.ndarray:
    # A copy of the built-in head's 68 landmarks, `landmark_model(load_face_model("head")).mean`, which takes a second.
    points = np.load(Path(__file__).with_name("mean_head.npy"), allow_pickle=False).astype(np.float64)[_INNER]
    return points - points.mean(axis=0)


def openness(landmarks: Landmarks) -> Openness:
    """How open eyes and mouth are."""
    points = to_faces68(landmarks)

    def ratio(corners: tuple[int, int], pairs: list[tuple[int, int]]) -> float:
        width = np.linalg.norm(points[corners[0]] - points[corners[1]])
        height = np.mean([np.linalg.norm(points[upper] - points[lower]) for upper, lower in pairs])
        return float(height / max(width, 1e-9))

    return Openness(
        ratio((36, 39), [(37, 41), (38, 40)]),
        ratio((42, 45), [(43, 47), (44, 46)]),
        ratio((60, 64), [(61, 67), (62, 66), (63, 65)]),
    )


def five_points(landmarks: Landmarks) -> Float[np.ndarray, "5 2"]:
    """Centres of the eyes, tip of the nose and corners of the mouth, the left of the picture first."""
    points = to_faces68(landmarks)
    return np.stack([points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[30], points[48], points[54]])


def alignment(landmarks: Landmarks, size: int = _ARCFACE_SIDE) -> Float[np.ndarray, "2 3"]:
    """Similarity from the picture to a crop of `size` × `size` pixels, aligned as networks for recognition expect.

    The five points come as near as they can to those of ArcFace's crop, which is enlarged to `size`.
    """
    target = (_ARCFACE + 0.5) * size / _ARCFACE_SIDE - 0.5
    return geometry.similarity_between(five_points(landmarks), target)


def aligned_crop(image: np.ndarray, landmarks: Landmarks, size: int = _ARCFACE_SIDE) -> np.ndarray:
    """Crop (size, size, 3) uint8 of a picture (H, W, 3), by `alignment`; black outside the picture."""
    return np.clip(np.rint(warp(image, alignment(landmarks, size), size)), 0, 255).astype(np.uint8)

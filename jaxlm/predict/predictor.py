"""Finds faces and their landmarks in pictures, with a trained model in any form (`jaxlm.predict.model`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm import geometry
from jaxlm.data import crops
from jaxlm.data.samples import check_boxes
from jaxlm.face3d import parameters
from jaxlm.predict import attributes, detectors
from jaxlm.predict.full_picture import regress_from_pictures
from jaxlm.predict.inputs import Picture, to_rgb
from jaxlm.predict.model import TrainedModel, load_model
from jaxlm.schemes import get_scheme
from jaxlm.support.pictures import warp

_REFINE = 2


class Face(NamedTuple):
    """One face of a picture.

    Attributes:
        landmarks: (K, 2) in pixels of the picture.
        score: (K,) in (0, 1], higher where the landmark is surer.
        box: (4,) x1 y1 x2 y2 around the landmarks, from which the last crop was taken.
        params: (P,) parameters of the 3D face in the picture's frame (`jaxlm.face3d.parameters`); None if the model
            predicts none.
        expected_error: (K,) in per cent of the distance between the outer eye corners; None if the model's scores are
            not calibrated (`jaxlm calibrate`).
        probability: in [0, 1], that the box holds a face at all; None likewise.
        scheme: name of the landmarks' scheme; None for faces68 or faces98, which their number tells.
    """

    landmarks: np.ndarray
    score: np.ndarray
    box: np.ndarray
    params: np.ndarray | None = None
    expected_error: np.ndarray | None = None
    probability: float | None = None
    scheme: str | None = None

    @property
    def pose(self) -> attributes.Pose:
        """Yaw, pitch and roll of the head in degrees."""
        return attributes.head_pose(self._of_a_face())

    @property
    def openness(self) -> attributes.Openness:
        """How open the eyes and the mouth are."""
        return attributes.openness(self._of_a_face())

    @property
    def five_points(self) -> np.ndarray:
        """(5, 2) eyes, tip of the nose and corners of the mouth."""
        return attributes.five_points(self._of_a_face())

    def aligned(self, image: Picture, size: int = 112) -> np.ndarray:
        """Crop (size, size, 3) uint8 of the face's picture, aligned as networks for recognition expect."""
        return attributes.aligned_crop(to_rgb(image), self._of_a_face(), size)

    def _has_a_head(self) -> bool:
        return len(self.landmarks) in attributes.COUNTS and self.scheme in (None, *attributes.SCHEMES)

    def _of_a_face(self) -> np.ndarray:
        """The landmarks.

        Raises:
            ValueError: if they are of another scheme than faces68 and faces98.
        """
        if not self._has_a_head():
            raise ValueError(
                f"Only faces68 and faces98 have this, not {len(self.landmarks)} landmarks of {self.scheme}."
            )
        return self.landmarks

    def to_dict(self) -> dict[str, Any]:
        """The face as lists and numbers for JSON, rounded to 4 digits; pose and openness if the scheme has them."""
        held = {name: value for name, value in self._asdict().items() if value is not None and name != "scheme"}
        entry = {name: np.round(np.asarray(value, np.float64), 4).tolist() for name, value in held.items()}
        if self._has_a_head() and np.isfinite(self.landmarks).all():
            for name, values in (("pose", self.pose), ("openness", self.openness)):
                entry[name] = {key: round(value, 4) for key, value in values._asdict().items()}
        return entry


class Predictor:
    """Finds faces and their landmarks in pictures.

    It may be called from several threads. Do not fork a process that has used it, because JAX has threads of its own:
    start others by "spawn".

    A detector's box is inexact, so the crop is taken again around the landmarks found, `refine` times. By default,
    `refine` is 0 for given boxes if the model was trained on given boxes, and 2 otherwise.

    Args:
        model: a model from `jaxlm.predict.model.load_model`.
        detector: image -> boxes (N, 4); OpenCV's Haar cascades where it is None.
        refine: how often the crop is taken again; the default above where it is None.
        batch_size: number of faces that the network takes at a time.
        min_probability: probability below which a detection is left out, if the model's scores are calibrated.
    """

    def __init__(
        self,
        model: TrainedModel,
        *,
        detector: detectors.Detector | None = None,
        refine: int | None = None,
        batch_size: int = 16,
        min_probability: float = 1e-7,
    ):
        self.model, self.config = model, model.config
        self.detect = detectors.HaarDetector() if detector is None else detector
        self._refine, self._batch_size, self._min_probability = refine, batch_size, min_probability

    @classmethod
    def load(cls, path: str | Path | None = None, **options: Any) -> "Predictor":
        """Predictor with the model of a workdir or an export, or the package's own if `path` is None.

        Args:
            path: see `jaxlm.predict.model.load_model`.
            options: arguments of `Predictor`.
        """
        return cls(load_model(path), **options)

    def __call__(self, image: Picture, boxes: np.ndarray | None = None) -> list[Face]:
        """Faces of one picture, the largest first, or in the order of the given boxes.

        Args:
            image: an array, a PIL picture or a file, see `jaxlm.predict.inputs.to_rgb`.
            boxes: (N, 4) x1 y1 x2 y2 around the landmarks of each face; detected where it is None.

        Raises:
            ValueError: if the image is no picture, or a box has no area or lies outside the picture.
        """
        return self.many([image], [boxes])[0]

    def many(self, images: Sequence[Picture], boxes: Sequence[np.ndarray | None] | None = None) -> list[list[Face]]:
        """Faces of each of several pictures; the network takes the faces of all pictures together, in batches."""
        pictures = [to_rgb(image) for image in images]
        given = [None] * len(images) if boxes is None else boxes
        found, owners, rough = [], [], []
        for number, (image, own) in enumerate(zip(pictures, given, strict=True)):
            for box in self.detect(image) if own is None else check_boxes(own, image.shape, "boxes"):
                found.append(np.asarray(box, np.float64))
                owners.append(number)
                rough.append(own is None)
        faces = self._follow([pictures[owner] for owner in owners], found, rough)
        result: list[list[Face]] = [[] for _ in pictures]
        for number in range(len(images)):
            mine = [i for i, owner in enumerate(owners) if owner == number]
            if given[number] is None:
                mine = [i for i in mine if self._is_face(faces[i]) and _inside(faces[i], pictures[number])]
                mine = [mine[i] for i in detectors.without_overlaps([faces[i].box for i in mine])]
            result[number] = [faces[i] for i in mine]
        return result

    def _is_face(self, face: Face) -> bool:
        return face.probability is None or face.probability >= self._min_probability

    def _follow(self, images: list[np.ndarray], boxes: list[np.ndarray], rough: list[bool]) -> list[Face]:
        """Faces in the given boxes, after one pass of the network and `refine` further ones."""
        faces = self._look(images, boxes)
        trusts_boxes = crops.looks_at_box(self.config.data.crop)
        rounds = [(_REFINE if r or not trusts_boxes else 0) if self._refine is None else self._refine for r in rough]
        for number in range(max(rounds, default=0)):
            again = [i for i, count in enumerate(rounds) if count > number and _usable(faces[i])]
            around = [geometry.box_of_points(faces[i].landmarks) for i in again]
            looked = self._look([images[i] for i in again], around)
            for i, face in zip(again, looked, strict=True):
                faces[i] = face
        return faces

    def _look(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[Face]:
        """Faces in the given boxes, after one pass of the network over their crops."""
        size, faces = self.config.image_size, []
        squares = [crops.crop_box(self.config.data.crop, box=box) for box in boxes]
        transforms = [geometry.box_to_crop(square, size) for square in squares]
        for start in range(0, len(boxes), self._batch_size):
            chosen = slice(start, start + self._batch_size)
            pictures, maps = images[chosen], np.array(transforms[chosen])
            padded = np.zeros((padded_size(len(pictures), self._batch_size), size, size, 3), np.float32)
            padded[: len(pictures)] = [warp(*pair, size) for pair in zip(pictures, maps, strict=True)]
            landmarks, score, params = self._run(padded, pictures, maps)
            back = geometry.apply_affine(geometry.invert_affine(maps), landmarks.astype(np.float64))
            for i, box in enumerate(boxes[chosen]):
                held = None if params is None else parameters.to_picture(params[i].astype(np.float64), maps[i], size)
                known = self._calibrated(back[i], score[i])
                faces.append(Face(back[i], score[i], box, held, *known, get_scheme(self.config.scheme).name))
        return faces

    def _calibrated(self, landmarks: np.ndarray, score: np.ndarray) -> tuple[np.ndarray | None, float | None]:
        """Expected errors and the probability of a face, or None where the scores are not calibrated."""
        known = self.model.calibration
        if known is None:
            return None, None
        errors = known.expected_error(landmarks, score, get_scheme(self.config.scheme))
        return errors, float(known.probability(score))

    def _run(self, crop: np.ndarray, pictures: list[np.ndarray], maps: np.ndarray) -> tuple[Any, Any, Any]:
        """Landmarks in crop pixels, scores and 3D parameters (or None), of the first crops, one for each picture."""
        count, model = len(pictures), self.model
        if model.halves is not None:
            identity = np.broadcast_to(np.eye(2, 3), (len(crop) - count, 2, 3))
            whole = [*pictures, *[None] * (len(crop) - count)]
            prediction = regress_from_pictures(
                model.halves, model.variables, crop, np.concatenate([maps, identity]), whole
            )
        else:
            prediction = model.predict(crop)
        params = prediction.aux.get("params")
        score = np.asarray(prediction.score)[:count]
        return np.asarray(prediction.landmarks)[:count], score, None if params is None else np.asarray(params)[:count]


def padded_size(count: int, most: int) -> int:
    """Number of crops to give to the network for `count` faces: the next power of two, `most` at most.

    The network is compiled for each number, so there should be few of them, and little padding.
    """
    return min(1 << (count - 1).bit_length(), most)


def _usable(face: Face) -> bool:
    return bool(np.isfinite(face.landmarks).all() and (np.ptp(face.landmarks, axis=0) > 1e-3).all())


def _inside(face: Face, image: np.ndarray) -> bool:
    """Whether the mean of the landmarks lies in the picture."""
    if not _usable(face):
        return False
    x, y = face.landmarks.mean(axis=0)
    return bool(0 <= x < image.shape[1] and 0 <= y < image.shape[0])

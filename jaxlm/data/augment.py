"""Crop and augmentation of one face on the host: one affine warp for all geometry, then blur, colour and occlusion.

The augmented crop depends on the sample and a random generator alone, so that sample i of a run does not depend on the
samples before it.
"""

import dataclasses
from typing import Any

import cv2
import numpy as np

from jaxlm import geometry
from jaxlm.data import crops
from jaxlm.face3d import parameters
from jaxlm.schemes import Scheme, normalizer
from jaxlm.support.errors import BadSample
from jaxlm.support.pictures import decode_image, warp


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes of a crop; with the defaults nothing is changed.

    Attributes:
        label_noise: radius of the disc in which the error of each annotated landmark is uniform, in pixels of a face of
            256 × 256; the errors of a picture are always the same. Table 1 of Shao et al., TPAMI 2021.
        rotation: largest angle in degrees; the angle is uniform in ± rotation.
        scale: largest relative zoom; the zoom is uniform in 1 ± scale.
        translation: largest shift as a fraction of the crop's side, uniform in ± translation in each direction.
        flip: probability of mirroring the crop.
        box: 4 means and 4 standard deviations of the difference between a detector's box and the box around the
            landmarks: offset of the centre (x, y) relative to the sides of the landmarks' box, logarithms of the ratios
            of width and height. The given box is replaced by a random box of this distribution; empty keeps the given
            box. See `jaxlm.evaluation.detector_boxes`.
        box_samples: number of different random boxes of a picture; 0 draws a new box each time.
        blur: probability of a Gaussian blur, whose σ is uniform up to 2 % of the crop's side.
        noise: probability of Gaussian noise, whose σ is uniform up to 12 grey levels.
        occlusion: probability of covering a rectangle with one colour, with noise or with another part of the crop; its
            sides are uniform in 10 to 50 % of the crop's side.
        color: strength of the colour changes: brightness, contrast and saturation are uniform in 1 ± color, the gain of
            each channel in 1 ± color / 3.
        grey: probability of removing all colour.
        low_resolution: probability of shrinking the crop by a factor of up to 4 and enlarging it again.
    """

    label_noise: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    translation: float = 0.0
    flip: float = 0.0
    box: tuple[float, ...] = ()
    box_samples: int = 0
    blur: float = 0.0
    noise: float = 0.0
    occlusion: float = 0.0
    color: float = 0.0
    grey: float = 0.0
    low_resolution: float = 0.0


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """Errors of given size in scale, position and rotation of a crop, as in Table 4 of Shao et al., TPAMI 2021.

    Attributes:
        scale: relative growth of the crop's sides.
        translation: shift of the crop in a random direction, as a fraction of the face box's mean side.
        degrees: rotation of the crop in degrees, in a random direction.
    """

    scale: float = 0.0
    translation: float = 0.0
    degrees: float = 0.0

    def move(self, box: np.ndarray, face: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Crop box (4,), enlarged and moved; `face` (4,) is the face box, whose mean side scales the shift."""
        angle = rng.uniform(0.0, 2.0 * np.pi)
        shift = self.translation * (face[2:] - face[:2]).mean() * np.array([np.cos(angle), np.sin(angle)])
        return geometry.scale_box(box, 1.0 + self.scale) + np.tile(shift, 2)

    def rotation(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """Affine map (2, 3) that rotates a crop of side `size` about its centre."""
        center = np.full(2, (size - 1) / 2)
        return geometry.similarity(1.0, self.degrees * rng.choice([-1.0, 1.0]), center, center)


def make_crop(
    record: dict[str, Any],
    *,
    scheme: Scheme,
    crop: str,
    size: int,
    normalizer_name: str,
    augmentation: Augmentation | None = None,
    perturbation: Perturbation | None = None,
    rng: np.random.Generator | None = None,
) -> dict[str, Any]:
    """Crops a record of a builder to one element of a batch.

    Args:
        record: image (encoded bytes, or an RGB array), landmarks (K, 2), mask (K,), visibility (K,), bbox (4,).
            Optional: `face` (4,), the box to crop instead of bbox; `params` and `mirrored` (P,), see
            `jaxlm.data.face_parameters`.
        scheme: scheme of the landmarks.
        crop: protocol, a key of `jaxlm.data.crops.PROTOCOLS`.
        size: side of the crop in pixels.
        normalizer_name: name of the normaliser, see `jaxlm.schemes.normalizer`.
        augmentation: random changes, applied only if `rng` is given.
        perturbation: errors of the crop, applied only if `rng` is given.
        rng: source of all randomness.

    Returns:
        image (size, size, 3) uint8; landmarks (K, 2) and bbox (4,) in pixels of the crop; visibility (K,); mask (K,);
        transform (2, 3) image → crop; normalizer () in pixels of the crop; for a record with `params` also params (P,)
        in the frame of the crop.

    Raises:
        BadSample: if the picture cannot be decoded.
        ValueError: if a face is mirrored whose record has `params` but not `mirrored`.
    """
    image = picture_of(record)
    landmarks = np.asarray(record["landmarks"], np.float64)
    mask = np.asarray(record["mask"], bool)
    visibility = np.asarray(record["visibility"], np.float32)
    bbox = np.asarray(record["bbox"], np.float64)

    if augmentation is not None and rng is not None and augmentation.box and mask.any():
        extended = np.ptp(landmarks[mask], axis=0).min() > 0
        face = random_box(geometry.box_of_points(landmarks, mask) if extended else bbox, augmentation, rng)
    else:
        face = np.asarray(record.get("face", bbox), np.float64)
    box = crops.crop_box(crop, box=face, points=landmarks[mask])
    if perturbation is not None and rng is not None:
        box = perturbation.move(box, face, rng)
    transform = geometry.box_to_crop(box, size)
    if augmentation is not None and augmentation.label_noise and mask.any():
        landmarks = landmarks + label_noise(landmarks, mask, augmentation.label_noise)
    flip = False
    if perturbation is not None and rng is not None:
        transform = geometry.compose_affine(perturbation.rotation(size, rng), transform)
    if augmentation is not None and rng is not None:
        transform = geometry.compose_affine(_random_similarity(augmentation, size, rng), transform)
        flip = rng.random() < augmentation.flip
        if flip:
            mirror = np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0]])
            transform = geometry.compose_affine(mirror, transform)

    pixels = warp(image, transform, size)
    landmarks = geometry.apply_affine(transform, landmarks)
    corners = geometry.apply_affine(transform, bbox[np.array([[0, 1], [2, 1], [0, 3], [2, 3]])])
    if flip:
        order = scheme.flip
        landmarks, mask, visibility = landmarks[order], mask[order], visibility[order]
    landmarks = np.where(mask[:, None], landmarks, 0.0)
    if augmentation is not None and rng is not None:
        pixels = _change_pixels(pixels, augmentation, rng)
    # The normaliser is measured before the rotation, which would enlarge an upright box.
    length = normalizer(
        normalizer_name, scheme, np.asarray(record["landmarks"]), np.asarray(record["mask"], bool), bbox
    )
    length *= np.sqrt(abs(np.linalg.det(transform[:, :2])))
    bbox = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    params = {"params": _params_of(record, transform, size, flip)} if "params" in record else {}
    return {
        **params,
        "image": pixels,
        "landmarks": landmarks.astype(np.float32),
        "visibility": visibility,
        "mask": mask,
        "bbox": bbox.astype(np.float32),
        "transform": transform.astype(np.float32),
        "normalizer": np.float32(length),
    }


def _params_of(record: dict[str, Any], transform: np.ndarray, size: int, flip: bool) -> np.ndarray:
    """Parameters (P,) float32 of a record in the frame of the crop."""
    if not flip:
        return parameters.to_crop(record["params"], transform, size).astype(np.float32)
    if "mirrored" not in record:
        raise ValueError("Parameters that come with a data set cannot be mirrored: set augment.flip to 0.")
    mirror = np.array([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    unflipped = geometry.compose_affine(transform, mirror)
    return parameters.to_crop(record["mirrored"], unflipped, size).astype(np.float32)


def picture_of(record: dict[str, Any]) -> np.ndarray:
    """Picture (H, W, 3) uint8 RGB of a record.

    Raises:
        BadSample: if it cannot be decoded.
    """
    image = record["image"]
    if isinstance(image, bytes):
        image = decode_image(image, limited=False)  # it was when it was prepared
        if image is None:
            raise BadSample(f"The cached picture of {record['key']!r} cannot be decoded; delete the cache.")
    return image


def random_box(tight: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Random box (4,) of the distribution `augmentation.box`, where `tight` (4,) is the box around the landmarks."""
    if augmentation.box_samples:
        # The landmarks seed the generator, so that a picture always gets the same boxes.
        seed = [*tight.view(np.uint32).tolist(), int(rng.integers(augmentation.box_samples))]
        rng = np.random.default_rng(seed)
    mean, deviation = np.reshape(augmentation.box, (2, 4))
    x, y, width, height = mean + deviation * np.clip(rng.standard_normal(4), -3.0, 3.0)
    sides = tight[2:] - tight[:2]
    center = (tight[:2] + tight[2:]) / 2 + np.array([x, y]) * sides
    half = np.exp([width, height]) * sides / 2
    return np.concatenate([center - half, center + half])


def label_noise(landmarks: np.ndarray, mask: np.ndarray, radius: float) -> np.ndarray:
    """Annotation errors (K, 2) in pixels of the picture: up to `radius` pixels for a face of 256 pixels."""
    tight = geometry.box_of_points(landmarks, mask)
    rng = np.random.default_rng(tight.view(np.uint32).tolist())
    angle, share = rng.uniform(0.0, 2.0 * np.pi, len(landmarks)), np.sqrt(rng.random(len(landmarks)))
    reach = radius / 256 * max(tight[2:] - tight[:2])
    return reach * share[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _random_similarity(augmentation: Augmentation, size: int, rng: np.random.Generator) -> np.ndarray:
    center = np.full(2, (size - 1) / 2)
    degrees = rng.uniform(-1, 1) * augmentation.rotation
    scale = 1 + rng.uniform(-1, 1) * augmentation.scale
    shift = rng.uniform(-1, 1, size=2) * augmentation.translation * size
    return geometry.similarity(scale, degrees, center, center + shift)


def _change_pixels(pixels: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    size = pixels.shape[0]
    if rng.random() < augmentation.occlusion:
        pixels = _occlude(pixels, rng)
    if rng.random() < augmentation.blur:
        sigma = rng.uniform(0, 0.02) * size
        pixels = cv2.GaussianBlur(pixels, (0, 0), max(sigma, 0.3))
    if rng.random() < augmentation.low_resolution:
        small = max(round(size / rng.uniform(1, 4)), 8)
        shrunk = cv2.resize(pixels, (small, small), interpolation=cv2.INTER_AREA)
        pixels = cv2.resize(shrunk, (size, size), interpolation=cv2.INTER_LINEAR)
    if augmentation.color:
        pixels = _change_colors(pixels, augmentation.color, rng)
    if rng.random() < augmentation.grey:
        pixels = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    if rng.random() < augmentation.noise:
        noise = rng.standard_normal((size, size, 3), np.float32) * rng.uniform(0, 12)
        pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    return pixels


def _change_colors(pixels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Changes brightness, contrast, saturation and channel gains at random by one 3×4 colour matrix."""
    brightness, contrast, saturation = 1 + rng.uniform(-1, 1, size=3) * strength
    gains = 1 + rng.uniform(-1, 1, size=3) * strength / 3
    luma = np.array([0.299, 0.587, 0.114])
    mix = saturation * np.eye(3) + (1 - saturation) * np.ones((3, 1)) * luma
    linear = contrast * brightness * gains[:, None] * mix
    offset = (1 - contrast) * float(luma @ pixels.reshape(-1, 3).mean(axis=0)) * brightness
    return cv2.transform(pixels, np.concatenate([linear, np.full((3, 1), offset)], axis=1))


def _occlude(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = pixels.shape[0]
    height, width = (rng.uniform(0.1, 0.5, size=2) * size).astype(int) + 1
    top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
    pixels = pixels.copy()
    kind = rng.integers(3)
    if kind == 0:
        patch = rng.integers(0, 256, size=3, dtype=np.uint8)
    elif kind == 1:
        patch = rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    else:
        y, x = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
        patch = pixels[y : y + height, x : x + width].copy()
    pixels[top : top + height, left : left + width] = patch
    return pixels

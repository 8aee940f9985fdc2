"""Batches of prepared data sets with Grain: shuffled, mixed, divided among processes, resumable at any sample.

Every batch has this schema: image (B, H, W, 3) uint8, landmarks (B, K, 2) in pixels of that image, visibility (B, K),
mask (B, K) true where a landmark exists, bbox (B, 4), transform (B, 2, 3) image → crop, normalizer (B,). Missing
landmarks are zero. Batches for evaluation also have index (B,), those of faces with parameters params (B, P).
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from jaxlm import geometry
from jaxlm.config import Config
from jaxlm.data.augment import Augmentation, Perturbation, make_crop
from jaxlm.data.crops import crop_box
from jaxlm.data.face_parameters import LabelledRecords, labels_of
from jaxlm.data.sources import FaceSource, open_source, prepare_source
from jaxlm.face3d import parameters
from jaxlm.face3d.model_files import model_of
from jaxlm.schemes import get_scheme


def train_batches(config: Config, *, process_index: int = 0, process_count: int = 1) -> grain.IterDataset:
    """Endless batches of augmented crops from the weighted mixture of `config.data.sources`.

    Each source is shuffled again in every epoch. Batch i depends on the seed and i alone. Each process reads its own
    share: with n processes, batches of batch_size / n. If the training step makes f pictures of each still (see
    `frames_of_a_still`), a batch has f times fewer stills.

    Raises:
        ValueError: if no source has a positive weight, or the batch size is not divisible by the number of processes
            times the number of frames.
    """
    frames = frames_of_a_still(config)
    batch_size = config.train.batch_size // frames
    if config.train.batch_size % (process_count * frames):
        raise ValueError(
            f"train.batch_size = {config.train.batch_size} is not divisible by {process_count} processes of videos of "
            f"{frames} frames."
            if frames > 1
            else f"train.batch_size = {batch_size} is not divisible by {process_count} processes."
        )
    names = [name for name in config.data.sources if config.data.sources[name].weight > 0]
    if not names:
        raise ValueError("No source of config.data.sources has a positive weight.")
    parts, weights = [], []
    for name in names:
        records = _training_records(config, name)
        parts.append(grain.MapDataset.source(records).shuffle(seed=config.seed).repeat())
        weights.append(float(config.data.sources[name].weight))
    mixed = grain.MapDataset.mix(parts, weights) if len(parts) > 1 else parts[0]
    crop = CropTransform(config, make_augmentation(config))
    # The random map seeds by position. Slicing after it keeps the samples independent of the number of processes.
    dataset = mixed.seed(config.seed).random_map(crop)[process_index::process_count]
    batches = dataset.batch(batch_size // process_count, drop_remainder=True)
    return batches.to_iter_dataset(grain.ReadOptions(num_threads=config.data.threads, prefetch_buffer_size=16))


def frames_of_a_still(config: Config) -> int:
    """Number of pictures that the training step makes of each still; 1 without `config.synthesis`."""
    settings = config.get("synthesis")
    return settings.frames if settings and settings.mode != "none" else 1


def _training_records(config: Config, name: str) -> Sequence[dict[str, Any]]:
    """Records of the training split of a source, with parameters if the config has a morphable model."""
    source = open_source(config, name, config.data.sources[name].train_split)
    if "morphable" not in config:
        return source.records
    labels = labels_of(config, prepare_source(config, name), source.records, source.split)
    if not len(labels.usable):
        raise ValueError(
            f"No face of {name} fits better than morphable.max_residual = {config['morphable'].max_residual}."
        )
    return LabelledRecords(source.records, labels, model_of(config))


def training_labels(config: Config, limit: int = 5000) -> dict[str, np.ndarray]:
    """Landmarks, masks and, with a morphable model, parameters of the training sources.

    A source with more than `limit` faces contributes about `limit` of them, evenly spaced.

    Returns:
        landmarks (N, K, 2) in pixels of their pictures, mask (N, K); with a morphable model also params (N, P) in the
        frame of the crops without augmentation.

    Raises:
        ValueError: if the training sources hold no face.
    """
    faces: dict[str, list[np.ndarray]] = {"landmarks": [], "mask": [], "params": []}
    for name in config.data.sources:
        if config.data.sources[name].weight > 0:
            records = _training_records(config, name)
            for index in range(0, len(records), max(-(-len(records) // limit), 1)):
                record = records[index]
                mask = record["mask"].astype(bool)
                faces["landmarks"].append(record["landmarks"])
                faces["mask"].append(mask)
                if "params" in record:
                    box = crop_box(config.data.crop, box=record["bbox"], points=record["landmarks"][mask])
                    transform = geometry.box_to_crop(box, config.image_size)
                    faces["params"].append(parameters.to_crop(record["params"], transform, config.image_size))
    if not faces["landmarks"]:
        raise ValueError("The sources of config.data.sources with a positive weight hold no face to train on.")
    return {key: np.stack(values) for key, values in faces.items() if values}


def make_augmentation(config: Config) -> Augmentation:
    """Augmentation that `config.augment` describes.

    Raises:
        ValueError: if a field is unknown, or `box` holds neither 0 nor 8 numbers.
    """
    known = {field.name for field in dataclasses.fields(Augmentation)}
    unknown = set(config.augment) - known
    if unknown:
        raise ValueError(
            f"config.augment has the unknown fields {', '.join(unknown)}; it takes {', '.join(sorted(known))}."
        )
    if len(config.augment.get("box", ())) not in (0, 8):
        raise ValueError("config.augment.box must be empty or hold 8 numbers: 4 means, 4 standard deviations.")
    return Augmentation(**config.augment.to_dict())


class CropTransform(grain.transforms.RandomMap):
    """Grain transform of a record to a batch element, with augmentation or a perturbation; see `make_crop`."""

    def __init__(
        self, config: Config, augmentation: Augmentation | None = None, perturbation: Perturbation | None = None
    ):
        self.scheme = get_scheme(config.scheme)
        self.crop, self.size = config.data.crop, config.image_size
        self.normalizer = config.data.normalizer
        self.augmentation, self.perturbation = augmentation, perturbation
        self.has_params = "morphable" in config

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        return self.crop_of(element, rng)

    def crop_of(self, record: dict[str, Any], rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        if not self.has_params and "params" in record:
            record = {key: value for key, value in record.items() if key != "params"}
        return make_crop(
            record,
            scheme=self.scheme,
            crop=self.crop,
            size=self.size,
            normalizer_name=self.normalizer,
            augmentation=self.augmentation,
            perturbation=self.perturbation,
            rng=rng,
        )


def eval_batches(
    source: FaceSource, config: Config, batch_size: int, perturbation: Perturbation | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every sample of a source once, in order and without augmentation; the last batch is padded.

    A perturbation depends on the config's seed and the position of the sample alone.

    Yields:
        Batches of the module's schema. `index` is the position of the sample, −1 for padding, whose mask is false.
    """
    transform = CropTransform(config, perturbation=perturbation)
    for start in range(0, len(source), batch_size):
        indices = list(range(start, min(start + batch_size, len(source))))
        elements = []
        for index in indices:
            element = transform.crop_of(source.records[index], np.random.default_rng([config.seed, index]))
            elements.append({**element, "index": np.int32(index)})
        padding = {key: np.zeros_like(value) for key, value in elements[0].items()}
        padding["index"] = np.int32(-1)
        elements += [padding] * (batch_size - len(elements))
        yield {key: np.stack([element[key] for element in elements]) for key in elements[0]}

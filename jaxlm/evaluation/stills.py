"""Evaluation of a system on a data set of stills: all samples, every subset, every normaliser of the scheme."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm import geometry, metrics
from jaxlm.config import Config
from jaxlm.data.augment import Perturbation, picture_of
from jaxlm.data.batches import eval_batches
from jaxlm.data.samples import YAW_BINS
from jaxlm.data.sources import FaceSource
from jaxlm.predict.full_picture import regress_from_pictures
from jaxlm.schemes import Scheme, normalizer, normalizers_of
from jaxlm.support.progress import progress
from jaxlm.systems import Halves


class Result(NamedTuple):
    """Per-sample results of one data set.

    Attributes:
        nme: (N,) NME of each sample, as a fraction; NaN where the face has no normaliser.
        errors: (N, K) error of each landmark, as a fraction of the normaliser; NaN where the landmark does not exist or
            the face has no normaliser.
        by_normalizer: name of a further normaliser -> (N,) NME, as fractions; NaN where the face lacks that one.
        landmarks: (N, K, 2) predictions in crop pixels.
        subsets: name -> (N,), true where a sample belongs to the subset; "all" comes first.
    """

    nme: np.ndarray
    errors: np.ndarray
    by_normalizer: dict[str, np.ndarray]
    landmarks: np.ndarray
    subsets: dict[str, np.ndarray]

    def nme_of(self, subset: str = "all") -> float:
        return metrics.mean(self.nme[self.subsets[subset]])

    def row(self, subset: str = "all") -> dict[str, Any]:
        """Number of faces; NME, FR8, FR10 and PCK20 in percent, AUC8 and AUC10 in [0, 1]; NME by other normalisers.

        Every NME is a mean over all faces that have its normaliser, so their numbers of faces can differ.
        """
        member = self.subsets[subset]
        values, others = self.nme[member], {name: nme[member] for name, nme in self.by_normalizer.items()}
        return {
            "count": int(np.isfinite(values).sum()),
            "nme": 100 * metrics.mean(values),
            "fr8": 100 * metrics.failure_rate(values, 0.08),
            "auc8": metrics.auc(values, 0.08),
            "fr10": 100 * metrics.failure_rate(values, 0.1),
            "auc10": metrics.auc(values, 0.1),
            "pck20": 100 * metrics.pck(self.errors[member], 0.2),
            "nme_by_normalizer": {name: 100 * metrics.mean(nme) for name, nme in others.items()},
            "count_by_normalizer": {name: int(np.isfinite(nme).sum()) for name, nme in others.items()},
        }

    def mean_of_bins(self) -> float | None:
        """Mean over the yaw bins of the NME in percent, as large-pose papers report it; None if a bin is missing."""
        if not set(YAW_BINS) <= set(self.subsets):
            return None
        return 100 * float(np.mean([self.nme_of(name) for name in YAW_BINS]))

    def parts(self, scheme: Scheme) -> dict[str, dict[str, float]]:
        """NME and PCK20 in percent of each of the scheme's groups of landmarks, over all samples."""
        return {
            name: {
                "nme": 100 * metrics.mean(self.errors[:, points].ravel()),
                "pck20": 100 * metrics.pck(self.errors[:, points], 0.2),
            }
            for name, points in scheme.groups.items()
        }


def evaluate(
    predict: Callable[[Any, Any], Any],
    variables: Any,
    source: FaceSource,
    config: Config,
    *,
    halves: Halves | None = None,
    perturbation: Perturbation | None = None,
    limit: int = 0,
    show_progress: bool = False,
) -> Result:
    """Evaluates a system on every sample of a source (or on about `limit` evenly spaced ones).

    The errors are measured in pixels of the pictures.

    The batch is split over this process's devices and padded to a multiple of them.

    Args:
        predict: (variables, images) -> Prediction; jitted.
        variables: parameters of the system, as `System.predict` takes them.
        source: faces of the data set.
        config: config of the experiment.
        halves: halves of a system that normalises faces, jitted; with them, the normalised face is taken from the
            picture itself, and `predict` is not used.
        perturbation: perturbation of the crops; none where it is None.
        limit: approximate number of samples; 0 for every sample.
        show_progress: whether to show a progress bar.

    Raises:
        ValueError: if no sample has the points that the normaliser needs.
    """
    if limit and limit < len(source):
        records = _Every(source.records, -(-len(source) // limit))
        source = dataclasses.replace(source, records=records)
    devices = jax.local_devices()
    batch_size = -(-config.eval.batch_size // len(devices)) * len(devices)
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    variables = jax.device_put(jax.device_get(variables), jax.sharding.NamedSharding(mesh, jax.P()))
    nme, distance = np.full((2, len(source)), np.nan)
    errors = np.full((len(source), source.scheme.num_landmarks), np.nan)
    landmarks = np.zeros((len(source), source.scheme.num_landmarks, 2), np.float32)
    for batch in progress(
        eval_batches(source, config, batch_size, perturbation),
        total=-(-len(source) // batch_size),
        desc=source.name,
        unit="batch",
        disable=not show_progress,
    ):
        images = jax.device_put(batch["image"], sharding)
        if halves is None:
            found = np.asarray(predict(variables, images).landmarks)
        else:
            pictures = [picture_of(source.records[i]) if i >= 0 else None for i in batch["index"]]
            prediction = regress_from_pictures(halves, variables, images, batch["transform"], pictures)
            found = np.asarray(prediction.landmarks)
        real = batch["index"] >= 0
        where = batch["index"][real]
        landmarks[where] = found[real]
        transform = batch["transform"][real].astype(np.float64)
        back = geometry.invert_affine(transform)  # a stretched crop would distort distances
        pred, target = (geometry.apply_affine(back, points[real]) for points in (found, batch["landmarks"]))
        length = batch["normalizer"][real] / np.sqrt(np.abs(np.linalg.det(transform[..., :2])))
        pred, target, length = (values.astype(np.float32) for values in (pred, target, length))
        nme[where] = np.asarray(metrics.nme(pred, target, length, batch["mask"][real]))
        distance[where] = np.asarray(metrics.nme(pred, target, np.ones_like(length), batch["mask"][real]))
        errors[where] = np.asarray(metrics.point_errors(pred, target, length, batch["mask"][real]))
    if np.isnan(nme).all():
        raise ValueError(
            f"No face of {source.name} has the points that the normalizer {config.data.normalizer!r} needs; "
            "choose data.normalizer = box or diagonal."
        )
    return Result(nme, errors, _by_normalizer(distance, source, config), landmarks, _subsets(source))


def _by_normalizer(distance: np.ndarray, source: FaceSource, config: Config) -> dict[str, np.ndarray]:
    """NME by the scheme's other normalisers, from mean distances (N,) in pixels of the pictures."""
    names = [name for name in normalizers_of(source.scheme) if name != config.data.normalizer]
    lengths = np.zeros((len(names), len(source)))
    for index in range(len(source)):
        record = source.records[index]
        for row, name in enumerate(names):
            lengths[row, index] = normalizer(
                name, source.scheme, record["landmarks"], record["mask"], np.asarray(record["bbox"])
            )
    nme = np.divide(distance, lengths, out=np.full_like(lengths, np.nan), where=lengths > 0)
    return {name: values for name, values in zip(names, nme, strict=True) if np.isfinite(values).any()}


def _subsets(source: FaceSource) -> dict[str, np.ndarray]:
    subsets = {"all": np.ones(len(source), bool)}
    if source.subsets:
        flags = np.stack([source.records[i]["subsets"] for i in range(len(source))]).astype(bool)
        subsets |= {name: flags[:, i] for i, name in enumerate(source.subsets) if flags[:, i].any()}
    return subsets


class _Every:
    """Every n-th record."""

    def __init__(self, records, stride: int):
        self.records, self.stride = records, stride

    def __len__(self):
        return -(-len(self.records) // self.stride)

    def __getitem__(self, index):
        return self.records[index * self.stride]

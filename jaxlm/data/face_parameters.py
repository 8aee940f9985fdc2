"""Parameters of a morphable model for every face of a data set: given with it, or fitted to landmarks and cached."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxlm.config import Config
from jaxlm.data.builder import FaceBuilder
from jaxlm.face3d import fitting, parameters
from jaxlm.face3d.model_files import model_of
from jaxlm.face3d.morphable import MorphableModel, landmark_model
from jaxlm.support.files import write_bytes_atomically
from jaxlm.support.shards import Shard

_ARRAYS = ("params", "mirrored", "residual", "residual_all")


class Labels(NamedTuple):
    """Morphable-model parameters of the N faces of a split.

    Attributes:
        params: (N, P) in the frame of the pictures (`jaxlm.face3d.parameters`).
        mirrored: (N, P) parameters of the faces mirrored at column 0; None if the parameters are given.
        residual: (N,) residuals of the fits, see `jaxlm.face3d.fitting.Fit`; NaN for a face with too few landmarks, 0
            if the parameters are given.
        residual_all: (N,) residuals over all existing landmarks, see `Fit`; NaN and 0 as in `residual`.
        usable: positions of the faces whose residual is small enough for training.
    """

    params: np.ndarray
    mirrored: np.ndarray | None
    residual: np.ndarray
    residual_all: np.ndarray
    usable: np.ndarray


class LabelledRecords(Sequence):
    """Records of the usable faces with `params` (P,) and, if these were fitted, `mirrored` (P,).

    The landmarks of a record are computed from its parameters: all 68 exist, so that the crop does not depend on which
    landmarks were annotated.
    """

    def __init__(self, records: Sequence[dict[str, Any]], labels: Labels, model: MorphableModel):
        self.records, self.labels, self.model = records, labels, landmark_model(model)
        points = [self._points(labels.params[first : first + 1024]) for first in range(0, len(labels.params), 1024)]
        self.landmarks = np.concatenate(points)

    def _points(self, params: np.ndarray) -> np.ndarray:
        vertices = parameters.vertices(jnp.asarray(np.nan_to_num(params), jnp.float32), self.model)
        return np.asarray(parameters.picture_pixels(vertices))[..., :2]

    def __len__(self) -> int:
        return len(self.labels.usable)

    def __getitem__(self, index):
        position = int(self.labels.usable[index])
        points = self.landmarks[position]
        everywhere = {"mask": np.ones(len(points), np.uint8), "visibility": np.ones(len(points), np.float32)}
        labels = {"params": self.labels.params[position], "landmarks": points, **everywhere}
        record = {**self.records[position], **labels}
        if self.labels.mirrored is not None:
            record["mirrored"] = self.labels.mirrored[position]
        return record


def labels_of(config: Config, builder: FaceBuilder, records: Sequence[dict[str, Any]], split: str) -> Labels:
    """Parameters of the faces of a split: given with the data set, or fitted to its landmarks once and cached.

    Given parameters are used if `config.morphable.labels` is "given" and the data set has parameters.

    Raises:
        ValueError: if `config.morphable.labels` is unknown, if the parameters have to be fitted and the scheme is not
            faces68, or if the given parameters have fewer modes than the model.
    """
    settings, model = config["morphable"], model_of(config)
    if _are_given(config, builder):
        return _given(builder, records, model, split)
    path, name = _fits_file(config, builder, split), f"{type(builder).__name__} {split}"
    if path.exists():
        with np.load(path) as file:
            found = {name: file[name] for name in _ARRAYS}
    else:
        found = _fit(records, range(len(records)), landmark_model(model), settings.contour, name)
        _write_fits(path, found)
    bad = ~(found["residual"] <= settings.max_residual)  # true for NaN as well
    if bad.any():
        listing = path.with_suffix(f".worse_than_{settings.max_residual:g}.txt")
        if not listing.exists():
            worst = [(records[int(i)]["key"].decode(), 100 * found["residual"][i]) for i in np.flatnonzero(bad)]
            text = "".join(f"{key} {percent:.2f} %\n" for key, percent in worst)
            write_bytes_atomically(listing, lambda file: file.write(text.encode()))
        print(
            f"{type(builder).__name__} {split}: {bad.sum()} of {len(bad)} faces fit worse than "
            f"{100 * settings.max_residual:g} % and are left out, listed in {listing}"
        )
    return Labels(**found, usable=np.flatnonzero(~bad))


def fit_part(config: Config, builder: FaceBuilder, records: Sequence[dict[str, Any]], split: str, shard: Shard) -> bool:
    """Fits a share of the faces of a split into the cache; the last share joins them for `labels_of`.

    Returns:
        Whether nothing is missing: all shares are there, or parameters are given.
    """
    if _are_given(config, builder):
        return True
    settings, path = config["morphable"], _fits_file(config, builder, split)
    if path.exists():
        return True
    name, part = f"{type(builder).__name__} {split}", shard.part(path)
    if not part.exists():
        indices = shard.of(range(len(records)))
        _write_fits(part, _fit(records, indices, landmark_model(model_of(config)), settings.contour, name))
    missing = sum(not file.exists() for file in shard.parts(path))
    if missing:
        print(f"{name}: {missing} of {shard.count} shards are missing, the last one joins them all.")
        return False
    found: dict[str, np.ndarray] = {}
    for other, file in enumerate(shard.parts(path), start=1):
        with np.load(file) as fits:
            for key in _ARRAYS if len(fits["residual"]) else ():  # fewer faces than shares
                whole = found.setdefault(key, np.full((len(records), *fits[key].shape[1:]), np.nan))
                whole[Shard(other, shard.count).of(range(len(records)))] = fits[key]
    _write_fits(path, found)
    return True


def _are_given(config: Config, builder: FaceBuilder) -> bool:
    """Whether parameters are given with the data set, and need not be fitted.

    Raises:
        ValueError: as `labels_of`.
    """
    labels = config["morphable"].labels
    if labels not in ("given", "fitted"):
        raise ValueError(f'morphable.labels must be "given" or "fitted", got {labels!r}.')
    if labels == "given" and getattr(builder, "ict", ""):
        raise ValueError(
            "Faces of ICT-FaceKit have no parameters of the experiment's face model: leave the source's ict empty, or "
            "set morphable.labels=fitted."
        )
    given = labels == "given" and builder.MODES is not None
    if not given and builder.scheme.name != "faces68":
        raise ValueError(f"Parameters are fitted to 68 landmarks; {builder.root} has the scheme {builder.scheme.name}.")
    return given


def _fits_file(config: Config, builder: FaceBuilder, split: str) -> Path:
    """Cached fits of a split to the config's model."""
    sparse = landmark_model(model_of(config))
    arrays = [sparse.mean, sparse.identity, sparse.expression, sparse.param_mean[12:], sparse.param_std[12:]]
    digest = hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in arrays))
    digest.update(f"{fitting.VERSION}{config['morphable'].contour}".encode())
    return Path(builder.data_dir) / f"params_{split}_{digest.hexdigest()[:16]}.npz"


def _write_fits(path: Path, found: dict[str, np.ndarray]) -> None:
    write_bytes_atomically(path, lambda file: np.savez(file, allow_pickle=False, **found))


def _given(builder: FaceBuilder, records: Sequence[dict[str, Any]], model: MorphableModel, split: str) -> Labels:
    """Parameters given with the records, cut to the modes of the model."""
    identity, expression = builder.MODES or (0, 0)
    wanted = model.identity.shape[2], model.expression.shape[2]
    if wanted[0] > identity or wanted[1] > expression:
        raise ValueError(
            f"{builder.root} has {identity} identity and {expression} expression coefficients, fewer than the model's "
            f"{wanted[0]} and {wanted[1]}: lower morphable.identity and morphable.expression."
        )
    kept = np.r_[0 : 12 + wanted[0], 12 + identity : 12 + identity + wanted[1]]
    path = Path(builder.data_dir) / f"given_{split}.npz"
    if not path.exists():  # cached, because reading the records reads their pictures
        whole = np.stack([records[index]["params"] for index in range(len(records))])
        write_bytes_atomically(path, lambda file: np.savez(file, allow_pickle=False, params=whole))
    with np.load(path) as file:
        params = file["params"][:, kept]
    zeros = np.zeros(len(params))
    return Labels(params, None, zeros, zeros, np.arange(len(params)))


def _fit(
    records: Sequence[dict[str, Any]], indices: Sequence[int], model: MorphableModel, contour: str, name: str
) -> dict[str, np.ndarray]:
    """Fits of the records at `indices`, by the names of `_ARRAYS`."""
    if not len(indices):
        return {name: np.zeros((0, 0)) if name in ("params", "mirrored") else np.zeros(0) for name in _ARRAYS}
    keys = ("landmarks", "mask", "visibility")  # without the pictures, which may not fit into memory
    faces = [{key: record[key] for key in keys} for record in map(records.__getitem__, indices)]
    landmarks, mask, visibility = (
        np.stack([face[key] for face in faces]) for key in ("landmarks", "mask", "visibility")
    )
    mask = mask.astype(bool)
    enough = mask.sum(axis=1) >= fitting.FEWEST
    given = landmarks[enough].astype(np.float64), mask[enough], visibility[enough]
    print(f"{name}: fitting {len(mask)} faces, once")
    fits = [
        fitting.fit_landmarks(*shapes, model=model, contour=contour, show_progress=True)
        for shapes in (given, fitting.mirrored(*given))
    ]
    columns = (fits[0].params, fits[1].params, fits[0].residual, fits[0].residual_all)
    found = {
        name: np.full((len(mask), *values.shape[1:]), np.nan) for name, values in zip(_ARRAYS, columns, strict=True)
    }
    for values, column in zip(found.values(), columns, strict=True):
        values[enough] = column
    return found

"""Loads morphable models: the built-in head, ICT-FaceKit, the Basel Face Model, and models of landmarks only."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np

from jaxlm.config import Block, Config
from jaxlm.face3d import head
from jaxlm.face3d.morphable import MorphableModel, make_model, with_modes
from jaxlm.schemes import FACES68_OF_FACES98
from jaxlm.support import matlab, numpy_files, storage
from jaxlm.support.errors import first_line
from jaxlm.support.pickles import load_arrays

HEAD = "head"


@dataclasses.dataclass
class Morphable(Block):
    """The face model of an experiment, `config.morphable`."""

    path: str = "bfm_noneck_v3.pkl"  # under data.root, see `load_face_model`; head is the built-in one
    statistics: str = "param_mean_std_62d_120x120.pkl"  # of the parameters; "" for those of the training set
    identity: int = 40  # modes
    expression: int = 10  # modes
    labels: str = "given"  # given: the data set's own parameters; fitted: to its landmarks, see `jaxlm fit`
    contour: str = "2d"  # of the landmarks that are fitted: on the outline (2d) or on the jaw (3d)
    max_residual: float = 0.05  # of a fit, in face sizes; faces that fit worse are left out


def model_of(config: Config) -> MorphableModel:
    """Loads the morphable model of `config.morphable`, which has path, identity, expression and statistics.

    A path that is not absolute is relative to `config.data.root`.

    Raises:
        ValueError: if the model cannot be loaded, see `load_face_model`.
    """
    settings: Morphable = config["morphable"]
    paths = [
        name if not name or name == HEAD else str(Path(config.data.root).expanduser() / name)
        for name in (settings.path, settings.statistics)
    ]
    if any(storage.is_remote(place) for name in paths for place in (name, Path(name))):
        # A folder that was downloaded must not choose what is fetched from where.
        raise ValueError(f"The face model must be a local file, got {paths[0]}: set morphable.path to a copy of it.")
    return load_face_model(paths[0], identity=settings.identity, expression=settings.expression, statistics=paths[1])


@functools.lru_cache(maxsize=4)
def load_face_model(path: str, *, identity: int = 40, expression: int = 10, statistics: str = "") -> MorphableModel:
    """Loads a morphable model with 68 landmarks.

    Args:
        path: "head" for the built-in model, or a file:
            `.npz` with mean (V, 3), identity (V, 3, I) or (I, V, 3) and expression (V, 3, E) or (E, V, 3). Unless the
            vertices are the 68 landmarks, it also has triangles (or tri) (F, 3) and landmarks (68,); ICT-FaceKit's
            `vertex_indices.json` beside the file replaces landmarks;
            `.pkl`, 3DDFA's `bfm_noneck_v3.pkl` with `tri.pkl` beside it;
            `.mat`, BFM 2009's `01_MorphableModel.mat` with `landmarks.txt` (68 vertices, counted from 0) and
            `expression.npz` (expression (V, 3, E)) beside it.
        identity: number of identity modes to keep.
        expression: number of expression modes to keep.
        statistics: file with the parameters' mean and std, `.pkl` as 3DDFA_V2 releases it, or `.npz`; "" for none.

    Raises:
        ValueError: if a file is missing or does not fit; the message names the file and the fault.
    """
    if path == HEAD:
        whole = head.head()
        model = whole._replace(landmarks=whole.landmarks[FACES68_OF_FACES98])
    else:
        file = Path(path).expanduser()
        readers = {".npz": _read_npz, ".pkl": _read_3ddfa, ".mat": _read_bfm}
        if file.suffix not in readers:
            raise ValueError(f"The morphable model must be {HEAD!r} or a file {', '.join(readers)}, got {path!r}.")
        if not file.is_file():
            raise ValueError(
                f"{file} does not exist: set morphable.path to a morphable model, or to 'head' for the built-in one."
            )
        try:
            model = readers[file.suffix](file)
        except ValueError as error:
            raise error if str(file.parent) in str(error) else ValueError(f"{file}: {error}") from None
    try:
        model = with_modes(model, identity, expression)
    except ValueError as error:
        raise ValueError(f"{path}: {error} Set morphable.identity and morphable.expression.") from None
    return _with_statistics(model, Path(statistics).expanduser()) if statistics else model


def _with_statistics(model: MorphableModel, path: Path) -> MorphableModel:
    arrays = load_arrays(path) if path.suffix == ".pkl" else read_arrays(path)
    if not {"mean", "std"} <= set(arrays):
        raise ValueError(f"{path} must hold two arrays, mean and std, of the parameters.")
    mean, std = (np.ravel(arrays[name]).astype(np.float32) for name in ("mean", "std"))
    if mean.shape != (model.num_params,) or std.shape != mean.shape or not (std > 0).all():
        raise ValueError(
            f"{path} holds the statistics of {mean.size} parameters where the model has {model.num_params}. The "
            "numbers must agree, and every standard deviation must be positive."
        )
    return model._replace(param_mean=model.param_mean * 0 + mean, param_std=model.param_std * 0 + std)


def _read_npz(path: Path) -> MorphableModel:
    arrays = read_arrays(path)
    for name in ("mean", "identity", "expression"):
        if name not in arrays:
            raise ValueError(f"{path} has no array {name}.")
    mean = arrays["mean"].astype(np.float32)
    bases = [_modes_last(path, name, arrays[name], mean) for name in ("identity", "expression")]
    triangles = arrays.get("triangles", arrays.get("tri"))
    indices = path.with_name("vertex_indices.json")
    if "landmarks" in arrays:
        landmarks = arrays["landmarks"]
    elif len(mean) == 68:
        landmarks = np.arange(68)
    elif indices.is_file():
        landmarks = read_vertex_indices(indices)
    else:
        raise ValueError(f"{path} has {len(mean)} vertices and no array landmarks that names 68 of them.")
    if triangles is None and len(mean) > 200:
        raise ValueError(f"{path} has no array triangles.")
    check_landmarks(path, landmarks, len(mean))
    optional = {name: arrays[name] for name in ("uv", "param_mean", "param_std") if name in arrays}
    unit = float(arrays["millimetres"]) if "millimetres" in arrays else _unit(mean[landmarks])
    identity, expression = bases
    return make_model(mean, identity, expression, landmarks, triangles=triangles, millimetres=unit, **optional)


def read_vertex_indices(path: Path) -> np.ndarray:
    """Landmarks' vertices of ICT-FaceKit's `vertex_indices.json`.

    Raises:
        ValueError: if the file is missing or has no such list.
    """
    try:
        return np.array(json.loads(path.read_text(errors="replace"))["idx_to_landmark_verts"], np.int64)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: it names the vertices of ICT-FaceKit's landmarks.") from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} has no list idx_to_landmark_verts ({error}).") from None


def _modes_last(path: Path, name: str, basis: np.ndarray, mean: np.ndarray) -> np.ndarray:
    if basis.ndim == 3 and basis.shape[:2] == mean.shape:
        return basis.astype(np.float32)
    if basis.ndim == 3 and basis.shape[1:] == mean.shape:
        return np.moveaxis(basis, 0, -1).astype(np.float32)
    raise ValueError(f"{path}: {name} is {basis.shape}; with {len(mean)} vertices it must be ({len(mean)}, 3, modes).")


def _read_3ddfa(path: Path) -> MorphableModel:
    arrays = load_arrays(path)
    for name in ("u", "w_shp", "w_exp", "keypoints"):
        if name not in arrays:
            raise ValueError(f"{path} has no array {name}: it is not 3DDFA's Basel Face Model.")
    beside = path.with_name("tri.pkl")
    # tri.pkl belongs to the model without a neck; the triangles in the model's own file are those of another mesh.
    triangles = load_arrays(beside).get("") if beside.is_file() else arrays.get("tri")
    if triangles is None:
        raise ValueError(f"{path} has no triangles, and there is no {beside.name} beside it.")
    triangles = triangles.T if triangles.shape[0] == 3 else triangles
    sizes = {name: arrays[name].shape[0] for name in ("w_shp", "w_exp")}
    if arrays["u"].size % 3 or set(sizes.values()) != {arrays["u"].size}:
        raise ValueError(
            f"{path}: u has {arrays['u'].size} coordinates and the bases have {sizes}. The numbers must be equal and "
            "divisible by 3."
        )
    mean = arrays["u"].reshape(-1, 3)
    identity, expression = (arrays[name].reshape(len(mean), 3, -1) for name in ("w_shp", "w_exp"))
    landmarks = arrays["keypoints"].ravel()[::3] // 3  # the flat array holds x, y and z of each vertex
    check_landmarks(path, landmarks, len(mean))
    return make_model(mean, identity, expression, landmarks, triangles=triangles, millimetres=1e-3)


def _read_bfm(path: Path) -> MorphableModel:
    fields = ("shapeMU", "shapePC", "shapeEV", "tl")
    content = matlab.read_mat(path, fields)
    mean = content["shapeMU"].reshape(-1, 3)
    identity = (content["shapePC"] * content["shapeEV"].ravel()).reshape(len(mean), 3, -1)
    listing, modes = path.with_name("landmarks.txt"), path.with_name("expression.npz")
    for needed in (listing, modes):
        if not needed.is_file():
            raise ValueError(f"{path} needs {needed.name} beside it: BFM 2009 has no landmarks and no expressions.")
    try:
        landmarks = np.array([int(word) for word in listing.read_text(errors="replace").split()])
    except ValueError as error:
        raise ValueError(f"{listing} must hold only vertex numbers ({error}).") from None
    check_landmarks(listing, landmarks, len(mean))
    arrays = read_arrays(modes)
    if "expression" not in arrays:
        raise ValueError(f"{modes} has no array expression.")
    expression = _modes_last(modes, "expression", arrays["expression"], mean)
    return make_model(mean, identity, expression, landmarks, triangles=content["tl"] - 1, millimetres=1e-3)


def check_landmarks(path: Path, landmarks: np.ndarray, count: int) -> None:
    """Raises ValueError if the landmarks are not 68 of `count` vertices."""
    if landmarks.shape != (68,) or landmarks.dtype.kind not in "iu" or landmarks.min() < 0 or landmarks.max() >= count:
        raise ValueError(f"{path} must name 68 landmark vertices between 0 and {count - 1}.")


def _unit(landmarks: np.ndarray) -> float:
    """Length of the model's unit in millimetres, if the outer eye corners are 90 mm apart (the mean of adults)."""
    return 90.0 / float(np.linalg.norm(landmarks[36] - landmarks[45]))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of numbers and words of an `.npz` file.

    Raises:
        ValueError: if the file does not exist or cannot be read.
    """
    try:
        return {name: array for name, array in numpy_files.read_npz(path).items() if array.dtype.kind in "biufU"}
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist.") from None
    except Exception as error:
        raise ValueError(f"{path} cannot be read as arrays ({first_line(error)[:300]}).") from None

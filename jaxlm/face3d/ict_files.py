"""Reads ICT-FaceKit's morphable face (Li et al., CVPR 2020), as it is published or as one file of arrays."""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxlm.face3d.model_files import check_landmarks, read_arrays, read_vertex_indices

_VERTICES = 26719
_NEUTRAL = "generic_neutral_mesh.obj"


class IctArrays(NamedTuple):
    """ICT-FaceKit's model in its own unit, about a centimetre.

    Attributes:
        mean: (V, 3) neutral mean face.
        identity: (100, V, 3) displacements of the identity modes.
        expression: (E, V, 3) displacements of the expressions.
        names: of the expressions.
        triangles: (F, 3) vertex indices.
        landmarks: (68,) vertices of the landmarks.
    """

    mean: np.ndarray
    identity: np.ndarray
    expression: np.ndarray
    names: tuple[str, ...]
    triangles: np.ndarray
    landmarks: np.ndarray


def read_ict(path: Path) -> IctArrays:
    """ICT-FaceKit's model.

    Args:
        path: the folder `FaceXModel` of its repository, or an `.npz` file with mean, identity, expression,
            expression_names and tri, and `vertex_indices.json` beside it.

    Raises:
        ValueError: if a file is missing, damaged or of another model; the message names it.
    """
    arrays = _read_folder(path) if path.is_dir() else read_arrays(path)
    wanted = {"mean", "identity", "expression", "expression_names", "tri"}
    if not wanted <= set(arrays) or arrays["mean"].shape != (_VERTICES, 3):
        raise ValueError(f"{path} is not ICT-FaceKit: it needs {', '.join(sorted(wanted))} of {_VERTICES} vertices.")
    names = tuple(str(name) for name in arrays["expression_names"])
    for name, count in (("identity", None), ("expression", len(names))):
        shape = arrays[name].shape
        if shape[1:] != (_VERTICES, 3) or shape[0] != (count or shape[0]):
            raise ValueError(f"{path}: {name} is {shape}; it must be ({count or 'modes'}, {_VERTICES}, 3).")
    triangles = arrays["tri"]
    if triangles.ndim != 2 or triangles.shape[1] != 3 or not 0 <= triangles.min() <= triangles.max() < _VERTICES:
        raise ValueError(f"{path}: tri must be (F, 3) vertex indices below {_VERTICES}.")
    indices = _indices(path)
    landmarks = read_vertex_indices(indices)
    check_landmarks(indices, landmarks, _VERTICES)
    return IctArrays(arrays["mean"], arrays["identity"], arrays["expression"], names, triangles, landmarks)


def ict_files(path: Path) -> list[Path]:
    """The files that `read_ict` reads and that exist."""
    files = sorted(path.glob("*.obj")) if path.is_dir() else [path]
    return [file for file in (*files, _indices(path)) if file.exists()]


def _indices(path: Path) -> Path:
    return path / "vertex_indices.json" if path.is_dir() else path.with_name("vertex_indices.json")


def _read_folder(folder: Path) -> dict[str, np.ndarray]:
    mean, triangles = read_obj(folder / _NEUTRAL)
    identities = sorted(folder.glob("identity[0-9]*.obj"))
    expressions = sorted(set(folder.glob("*.obj")) - set(identities) - {folder / _NEUTRAL})
    if not identities or not expressions:
        raise ValueError(f"{folder} holds no identity000.obj … or no expressions beside {_NEUTRAL}.")
    moved = {}
    for name, files in (("identity", identities), ("expression", expressions)):
        moved[name] = np.stack([_displacement(file, mean) for file in files])
    names = np.array([file.stem for file in expressions])
    return {"mean": mean, "tri": triangles, **moved, "expression_names": names}


def _displacement(file: Path, mean: np.ndarray) -> np.ndarray:
    vertices = read_obj(file, faces=False)[0]
    if vertices.shape != mean.shape:
        raise ValueError(f"{file} has {len(vertices)} vertices where {_NEUTRAL} has {len(mean)}.")
    return (vertices - mean).astype(np.float32)


def read_obj(path: Path, *, faces: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and triangles (F, 3) of a Wavefront OBJ file; polygons are cut into triangles.

    Args:
        path: of the file.
        faces: whether to read the triangles; there are none otherwise.

    Raises:
        ValueError: if the file is missing or a line cannot be read; the message names it.
    """
    vertices, triangles = [], []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist.") from None
    for number, line in enumerate(lines, start=1):
        try:
            if line.startswith("v "):
                x, y, z = line.split()[1:4]
                vertices.append((float(x), float(y), float(z)))
            elif faces and line.startswith("f "):
                corners = [int(word.partition("/")[0]) - 1 for word in line.split()[1:]]
                triangles += [(corners[0], *pair) for pair in itertools.pairwise(corners[1:])]
        except ValueError:
            raise ValueError(f"{path}, line {number} is not an OBJ line: {line[:60]!r}.") from None
    return np.array(vertices, np.float64).reshape(-1, 3), np.array(triangles, np.int64).reshape(-1, 3)

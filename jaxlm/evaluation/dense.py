"""Dense 3D error on AFLW2000-3D's vertices and on scans such as Florence's, as in Table 2 of Guo et al.

AFLW2000-3D: the targets are the labels' 3D faces, with as many coefficients as the face model's file has. The error
is the mean distance of all vertices, depth included, divided by √(w·h) of the box around the landmarks, as in PRNet's
protocol. The position of a face in depth is unknown, so the mean depths are made equal.

Scans: a folder of `.obj` files. Each scan is rendered in 21 poses (VRN's), and each picture is reconstructed. The
reconstruction is aligned with the scan by iterative closest points with a similarity. The error is the mean distance
of its vertices to the scan, divided by the distance between the scan's outer eye corners. These are the points of the
scan nearest to the eye corners of the frontal picture's reconstruction.

`jaxlm dense` writes the errors as `dense.json` into the workdir.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import KDTree

from jaxlm import geometry, metrics
from jaxlm.data import sources
from jaxlm.data.augment import picture_of
from jaxlm.data.samples import YAW_BINS
from jaxlm.data.sets.three_hundred_w_lp import BFM_MODES
from jaxlm.data.sources import with_source
from jaxlm.face3d import scans, views
from jaxlm.face3d.model_files import load_face_model
from jaxlm.face3d.morphable import MorphableModel
from jaxlm.predict.faces3d import Reconstructor
from jaxlm.support.progress import progress


@dataclasses.dataclass(frozen=True)
class DenseResult:
    """Dense errors of N faces.

    Attributes:
        errors: (N,) error of each face, as a fraction of the normaliser.
        subsets: name -> (N,), true where a face belongs to the subset.
        vertices: number of vertices compared in each face.
    """

    errors: np.ndarray
    subsets: dict[str, np.ndarray]
    vertices: int

    def report(self) -> dict[str, Any]:
        """NME in percent over all faces and over every subset, and the mean over the subsets."""
        means = {name: 100 * metrics.mean(self.errors[member]) for name, member in self.subsets.items()}
        whole = {"nme": 100 * metrics.mean(self.errors), "count": len(self.errors), "vertices": self.vertices}
        return {**whole, "subsets": means, "nme_mean_of_subsets": float(np.mean(list(means.values())))}


def vertex_error(pred: np.ndarray, target: np.ndarray, normalizer: float) -> float:
    """Mean distance between vertices (V, 3), divided by `normalizer`, after their mean depths are made equal."""
    shift = np.array([0.0, 0.0, (target - pred)[:, 2].mean()])
    return float(np.linalg.norm(pred + shift - target, axis=1).mean() / normalizer)


def evaluate_aflw2000(reconstructor: Reconstructor, root: str) -> DenseResult:
    """Dense NME on AFLW2000-3D.

    Args:
        reconstructor: a model trained with the Basel Face Model.
        root: folder of the data set as published.

    Raises:
        ValueError: if the data set has no parameters, or the face model is the built-in head or cannot be loaded.
    """
    config = with_source(reconstructor.config, "aflw2000", root)
    source = sources.open_set(config, "aflw2000")
    if "params" not in source.records[0]:
        raise ValueError(f"{root} has no parameters: the dense protocol needs AFLW2000-3D's .mat files.")
    truth = _whole_model(reconstructor)
    kept = [truth.identity.shape[2], truth.expression.shape[2]]
    columns = np.r_[0 : 12 + kept[0], 12 + BFM_MODES[0] : 12 + BFM_MODES[0] + kept[1]]
    errors, flags_of = [], []
    for number in progress(range(len(source)), desc="dense", unit="face"):
        record = source.records[number]
        target = views.vertices_of(record["params"][columns], truth)
        box = geometry.box_of_points(record["landmarks"].astype(np.float64), record["mask"].astype(bool))
        params = reconstructor.regress(picture_of(record), box)
        pred = views.vertices_of(params, reconstructor.model)
        errors.append(vertex_error(pred, target, float(np.sqrt(np.prod(box[2:] - box[:2])))))
        flags_of.append(record["subsets"])
    members = np.stack(flags_of).astype(bool)
    subsets = {name: members[:, i] for i, name in enumerate(YAW_BINS) if members[:, i].any()}
    return DenseResult(np.array(errors), subsets, len(truth.mean))


def _whole_model(reconstructor: Reconstructor) -> MorphableModel:
    """Face model of the workdir with the labels' number of coefficients; with its config's if the file has fewer."""
    settings = reconstructor.config["morphable"]
    if settings.path == "head":
        raise ValueError("AFLW2000-3D's parameters need the Basel Face Model; the workdir has the built-in head.")
    path = str(Path(reconstructor.config.data.root).expanduser() / settings.path)
    try:
        return load_face_model(path, identity=BFM_MODES[0], expression=BFM_MODES[1])
    except ValueError as error:
        if "were asked for" not in str(error):
            raise
    return load_face_model(path, identity=settings.identity, expression=settings.expression)


def evaluate_scans(reconstructor: Reconstructor, folder: Path) -> DenseResult:
    """Dense NME on rendered pictures of every scan of a folder.

    Raises:
        ValueError: if the folder holds no scan.
    """
    paths = sorted(folder.rglob("*.obj"))
    if not paths:
        raise ValueError(f"{folder} holds no .obj file.")
    errors, yaws = [], []
    for path in progress(paths, desc="scans", unit="scan"):
        scan, distances, length = scans.read_scan(path), [], np.nan
        for pitch in scans.PITCHES:
            for yaw in scans.YAWS:
                image, surface = scans.photograph(scan, pitch, yaw)
                box = np.array([0.15, 0.15, 0.85, 0.85]) * image.shape[0]
                (params,) = reconstructor.faces(image, box[None])
                distance, eyes = scan_error(
                    views.vertices_of(params, reconstructor.model), reconstructor.model, surface
                )
                distances.append(distance)
                yaws.append(abs(yaw))
                if (pitch, yaw) == (scans.PITCHES[0], scans.YAWS[len(scans.YAWS) // 2]):
                    length = eyes
        errors += [distance / length for distance in distances]
    bins = np.digitize(yaws, [30.0, 60.0])
    return DenseResult(
        np.array(errors), {name: bins == i for i, name in enumerate(YAW_BINS)}, len(reconstructor.model.mean)
    )


def scan_error(vertices: np.ndarray, model: MorphableModel, surface: np.ndarray) -> tuple[float, float]:
    """Mean distance of a reconstruction's vertices to a surface after alignment, and the surface's eye distance.

    Args:
        vertices: (V, 3) of the reconstruction.
        model: face model of the vertices.
        surface: (M, 3) points of the scan.

    Returns:
        The mean distance, and the distance between the two points of the surface that lie nearest to the
        reconstruction's outer eye corners.
    """
    moved, tree = scans.align(vertices, surface), KDTree(surface)
    distance, nearest = map(np.asarray, tree.query(moved))
    left, right = surface[nearest[np.asarray(model.landmarks)[[36, 45]]]]
    return float(distance.mean()), float(np.linalg.norm(left - right))

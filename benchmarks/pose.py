"""Errors of the head pose of a model's landmarks: python -m benchmarks pose --root=/data/AFLW2000

The pictures are those of AFLW2000-3D; each face is found in the box of its labels. Poses come from the landmarks
(`jaxlm.predict.attributes.head_pose`) and are compared with those of the data set. Faces with an angle beyond 99° are
left out, as is usual. The same for the labels' own landmarks.
"""

import dataclasses

import numpy as np

from benchmarks.table import Table, Values
from jaxlm import geometry
from jaxlm.data.augment import picture_of
from jaxlm.data.sources import open_set, with_source
from jaxlm.face3d import parameters
from jaxlm.predict.attributes import head_pose
from jaxlm.predict.predictor import Predictor
from jaxlm.support.progress import progress

_BINS = ((0, 30), (30, 60), (60, 99))  # of the yaw's size, in degrees


@dataclasses.dataclass(frozen=True)
class Options:
    root: str
    """Folder of AFLW2000-3D."""
    workdir: str | None = None
    """Model; the package's own by default."""


def main(options: Options, table: Table) -> None:
    predictor = Predictor.load(options.workdir)
    source = open_set(with_source(predictor.config, "aflw2000", options.root), "aflw2000:test")
    truth, found, labelled = [], [], []
    for record in progress(source.records, desc="faces", unit="face"):
        pitch, yaw, roll = parameters.pose(np.asarray(record["params"], np.float64))[1]
        if max(abs(pitch), abs(yaw), abs(roll)) > 99:
            continue
        image = picture_of(record)
        box = geometry.box_of_points(record["landmarks"])[None]
        truth.append((yaw, pitch, roll))
        found.append(head_pose(predictor(image, box)[0].landmarks))
        labelled.append(head_pose(record["landmarks"].astype(np.float64)))
    table.title(f"{len(truth)} faces; errors in degrees")
    for name, poses in (("landmarks of the model", found), ("landmarks of the labels", labelled)):
        errors, sizes = np.abs(np.subtract(poses, truth)), np.abs(np.array(truth)[:, 0])
        for angle, values in zip(("yaw", "pitch", "roll"), errors.T, strict=True):
            row: Values = {"median": float(np.median(values)), "mean": float(values.mean())}
            row |= {
                f"median at {low} to {high}°": float(np.median(values[(sizes >= low) & (sizes < high)]))
                for low, high in _BINS
            }
            table.add(f"{angle}, {name}", row)

"""How a detector's boxes differ from those around the landmarks: the distribution that training boxes are drawn from.

    python -m jaxlm.evaluation.detector_boxes --config=configs/reinit_300w.py --data=300w:train
    python -m jaxlm.evaluation.detector_boxes --config=configs/reinit_300w.py --data=300w:train --detector=haar

Prints the eight numbers of `config.augment.box`, of the boxes that the data set gives or of a detector's.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxlm import geometry
from jaxlm.data import sources
from jaxlm.data.augment import picture_of
from jaxlm.support.progress import progress


class BoxOffsets(NamedTuple):
    """Boxes of N faces against the boxes around their landmarks.

    Attributes:
        values: (N, 4) offset of the centre over the sides (x, y), logarithms of the ratios of width and height.
        missed: faces without a box that covers their centre.
    """

    values: np.ndarray
    missed: int

    def distribution(self) -> tuple[float, ...]:
        """Means and standard deviations, the 8 numbers of `config.augment.box`."""
        return tuple(round(float(x), 3) for x in (*self.values.mean(axis=0), *self.values.std(axis=0)))


def offsets(box: np.ndarray, tight: np.ndarray) -> np.ndarray:
    """(4,) of one box against the box around the landmarks, both x1 y1 x2 y2."""
    sides, other = box[2:] - box[:2], tight[2:] - tight[:2]
    shift = (box[:2] + box[2:] - tight[:2] - tight[2:]) / 2 / other
    return np.concatenate([shift, np.log(sides / other)])


def nearest_box(found: np.ndarray, tight: np.ndarray) -> np.ndarray | None:
    """Of boxes (N, 4) the one that overlaps a face the most, None where none covers the face's centre."""
    center = (tight[:2] + tight[2:]) / 2
    over_it = [box for box in found if (box[:2] < center).all() and (center < box[2:]).all()]
    return max(over_it, key=lambda box: geometry.box_iou(box, tight), default=None)


def measure(source: sources.FaceSource, detector: Any | None = None, limit: int = 0) -> BoxOffsets:
    """Offsets of a data set's own boxes, or of a detector's: image (H, W, 3) RGB -> boxes (N, 4).

    Args:
        source: of faces.
        detector: None for the data set's boxes.
        limit: about as many evenly spaced faces; 0 for all.

    Raises:
        ValueError: if no face has a box.
    """
    stride = -(-len(source) // limit) if limit else 1
    values, missed = [], 0
    for index in progress(range(0, len(source), stride), desc=source.name, unit="face"):
        record = source.records[index]
        mask = np.asarray(record["mask"], bool)
        if mask.sum() < 2:
            continue
        tight = geometry.box_of_points(np.asarray(record["landmarks"], np.float64), mask)
        if detector is None:
            box = np.asarray(record["bbox"], np.float64)
        else:
            box = nearest_box(detector(picture_of(record)), tight)
        if box is None:
            missed += 1
        else:
            values.append(offsets(box, tight))
    if not values:
        raise ValueError(f"No face of {source.name} was detected; measure the data set's own boxes instead.")
    return BoxOffsets(np.array(values), missed)

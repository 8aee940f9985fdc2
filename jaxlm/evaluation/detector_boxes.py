"""Distribution of the offsets between a detector's boxes and the boxes around the landmarks.

`jaxlm detector-boxes` prints the eight numbers of `config.augment.box`, the distribution from which training boxes
are drawn, for the boxes of the data set or those of a detector.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxlm import geometry
from jaxlm.data import sources
from jaxlm.data.augment import picture_of
from jaxlm.support.progress import progress


class BoxOffsets(NamedTuple):
    """Offsets of the boxes of N faces from the boxes around their landmarks.

    Attributes:
        values: (N, 4) offset of the centre in x and y, over width and height of the landmarks' box, and logarithms of
            the ratios of both widths and both heights.
        missed: number of faces without a box that covers their centre.
    """

    values: np.ndarray
    missed: int

    def distribution(self) -> tuple[float, ...]:
        """Means and standard deviations of the offsets, the 8 numbers of `config.augment.box`."""
        return tuple(round(float(x), 3) for x in (*self.values.mean(axis=0), *self.values.std(axis=0)))


def offsets(box: np.ndarray, tight: np.ndarray) -> np.ndarray:
    """Offsets (4,) of one box from the box around the landmarks, both x1 y1 x2 y2; see `BoxOffsets.values`."""
    sides, other = box[2:] - box[:2], tight[2:] - tight[:2]
    shift = (box[:2] + box[2:] - tight[:2] - tight[2:]) / 2 / other
    return np.concatenate([shift, np.log(sides / other)])


def nearest_box(found: np.ndarray, tight: np.ndarray) -> np.ndarray | None:
    """Box (4,) among boxes (N, 4) that covers the centre of a face's box and overlaps it most; None if none does."""
    center = (tight[:2] + tight[2:]) / 2
    over_it = [box for box in found if (box[:2] < center).all() and (center < box[2:]).all()]
    return max(over_it, key=lambda box: geometry.box_iou(box, tight), default=None)


def measure(source: sources.FaceSource, detector: Any | None = None, limit: int = 0) -> BoxOffsets:
    """Offsets of a data set's own boxes, or of a detector's, from the boxes around the landmarks.

    Args:
        source: faces of the data set.
        detector: image (H, W, 3) RGB -> boxes (N, 4); None for the data set's boxes.
        limit: approximate number of faces to take, evenly spaced; 0 for all.

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

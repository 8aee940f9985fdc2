"""What a picture's time goes into, and what each part brings: python -m benchmarks picture --root=/data/300W

Each variant of the prediction finds the faces of the same pictures of 300-W's LFPW part, in boxes of the Haar detector:
with and without the mirrored crop, and with 0, 1 and 2 further looks around the landmarks found. The table has the
processor time of one picture that holds one face in 400 × 400 pixels, and the inter-ocular NME with the difference to
the most thorough variant (mean and 95 % interval of a paired bootstrap over the pictures).
"""

import dataclasses
import time
from typing import Any

import cv2
import numpy as np

from benchmarks.table import Table
from jaxlm import geometry, metrics
from jaxlm.data.augment import picture_of
from jaxlm.data.sources import open_set, with_source
from jaxlm.predict.detectors import HaarDetector
from jaxlm.predict.model import TrainedModel, jitted_predict, load_model
from jaxlm.predict.predictor import Predictor
from jaxlm.schemes import normalizer
from jaxlm.support.pictures import warp
from jaxlm.support.progress import progress

SIDE = 400


@dataclasses.dataclass(frozen=True)
class Options:
    root: str
    """Folder of 300-W, as configs/ldeq_300w.py reads it."""
    workdir: str | None = None
    """Model; the package's own by default."""
    limit: int = 0
    """Number of pictures; all by default."""


def variant(model: TrainedModel, mirror: bool, looks: int) -> Predictor:
    """A predictor with or without the mirrored crop and with so many further looks."""
    config = model.config.copy_and_resolve_references()
    config.eval.flip_average = mirror
    predict = jitted_predict(config)[0]
    chosen = model._replace(config=config, predict=lambda images: predict(model.variables, images))
    return Predictor(chosen, refine=looks)


def face_in_the_middle(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """A picture of 400 × 400 pixels whose middle half holds the face."""
    box = geometry.box_of_points(landmarks)
    square = geometry.square_box(box, 2.0)
    return warp(image, geometry.box_to_crop(square, SIDE), SIDE).astype(np.uint8)


def milliseconds(call: Any, seconds: float = 2.0) -> float:
    """Processor time of a call, of all threads together."""
    call()
    count, start, begin = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - begin < seconds:
        call()
        count += 1
    return 1e3 * (time.process_time() - start) / count


def main(options: Options, table: Table) -> None:
    cv2.setNumThreads(1)
    model = load_model(options.workdir)
    source = open_set(with_source(model.config, "300w", options.root), "300w:train")
    detect = HaarDetector()
    pictures, boxes, truths, masks = [], [], [], []
    for number in progress(range(min(options.limit or len(source), len(source))), desc="detection", unit="picture"):
        record = source.records[number]
        image, truth = picture_of(record), record["landmarks"]
        true_box = geometry.box_of_points(truth)
        found = max(detect(image), key=lambda box: geometry.box_iou(box, true_box), default=None)
        if found is not None and geometry.box_iou(found, true_box) > 0.4:
            pictures.append(image)
            boxes.append(found[None])
            truths.append(truth)
            masks.append(record["mask"].astype(bool))
    table.title(f"{len(pictures)} pictures whose face the detector finds")
    truth, mask = np.stack(truths), np.stack(masks)
    pairs = zip(truths, masks, strict=True)
    lengths = np.array([normalizer("inter_ocular", source.scheme, points, exist) for points, exist in pairs])
    one = face_in_the_middle(pictures[0], truths[0])
    table.add("detection alone", {"ms": milliseconds(lambda: detect(one))})
    thorough = None
    for mirror in (True, False):
        for looks in (2, 1, 0):
            predictor = variant(model, mirror, looks)
            faces = [face for group in predictor.many(pictures, boxes) for face in group]
            predicted = np.stack([face.landmarks for face in faces])
            errors = 100 * np.asarray(metrics.nme(predicted, truth, lengths, mask))
            thorough = errors if thorough is None else thorough
            mean, low, high = metrics.paired_difference(errors[None], thorough[None])
            values = {"ms": milliseconds(lambda predictor=predictor: predictor(one)), "NME %": float(errors.mean())}
            values |= {"difference": mean, "low": low, "high": high}
            table.add(f"{'with' if mirror else 'without'} the mirrored crop, {looks} further looks", values)

"""AFLW (Köstinger et al., ICCVW 2011): 19 landmarks in the protocol of CCL, 21 by yaw in that of 3DDFA."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jaxlm.data.builder import FaceBuilder
from jaxlm.data.readers.arrays import read_npy
from jaxlm.data.samples import Sample, yaw_bin
from jaxlm.data.sets.three_hundred_w_lp import ParamsBuilder
from jaxlm.support.errors import BadSample
from jaxlm.support.matlab import read_mat, read_names

AFLW_LIST = "AFLW_GT_crop.list"


def read_aflw(path: Path, folder: Path) -> dict[str, list[Sample | BadSample]]:
    """Splits "train" (20000 faces) and "test" (4386) of AFLW with the 19 landmarks of Zhu et al., CVPR 2016 (CCL).

    Args:
        path: `AFLWinfo_release.mat` with data (N, 38: 19 x, 19 y), mask_new (N, 19, visible), bbox (N, 4: left, right,
            top, bottom), nameList and ra, an order whose first 20000 faces are the split "train".
        folder: folder of the pictures that nameList names, `data/flickr`.

    Raises:
        BadSample: if the file is not of this form.
    """
    content = read_mat(path, ("data", "mask_new", "bbox", "ra"))
    points, visible, boxes, order = (content[field] for field in ("data", "mask_new", "bbox", "ra"))
    names = read_names(path, "nameList")
    count = len(points)
    shapes = (points.shape, visible.shape, boxes.shape, order.size, len(names))
    if shapes != ((count, 38), (count, 19), (count, 4), count, count):
        raise BadSample(
            f"{path}: data, mask_new, bbox, ra and nameList have {shapes}; expected (N, 38), (N, 19), (N, 4), N, N."
        )
    if sorted(order.ravel()) != list(range(1, count + 1)):
        raise BadSample(f"{path}: ra must hold each number from 1 to {count} once.")
    samples: list[Sample | BadSample] = []
    for index in order.ravel().astype(int) - 1:
        landmarks = points[index].reshape(2, 19).T.astype(np.float64)
        landmarks[(landmarks <= 0).any(axis=1)] = np.nan
        left, right, top, bottom = boxes[index].astype(np.float64)
        seen = visible[index].astype(np.float32)
        where, frontal = f"{path}, row {index + 1}", ("frontal",) if seen.all() else ()
        box = np.array([left, top, right, bottom]) - 1.0
        samples.append(
            Sample(folder / names[index], landmarks - 1.0, where, box, seen, frontal, f"{names[index]}#{index}")
        )
    return {"train": samples[:20000], "test": samples[20000:]}


def read_aflw_crops(root: Path) -> list[Sample | BadSample]:
    """Samples of 3DDFA's crops of AFLW; see `AflwCrops`.

    Raises:
        BadSample: if files are missing or have different lengths.
    """
    listing = root / AFLW_LIST
    if not listing.is_file():
        raise BadSample(f"{root} has no {AFLW_LIST}: set root to 3DDFA's test set of AFLW.")
    names = listing.read_text(errors="replace").split()
    points, yaws, boxes = (read_npy(root / f"AFLW_GT_{name}.npy") for name in ("pts21", "crop_yaws", "crop_roi_box"))
    count = len(names)
    if points.shape != (count, 2, 21) or yaws.shape != (count,) or boxes.shape != (count, 4):
        raise BadSample(
            f"{root}: points, yaws and boxes have the shapes {points.shape}, {yaws.shape}, {boxes.shape} where the "
            f"{count} crops need ({count}, 2, 21), ({count},) and ({count}, 4)."
        )
    samples: list[Sample | BadSample] = []
    for number, name in enumerate(names):
        landmarks = np.where((points[number] > 0).all(axis=0), points[number], np.nan).T
        x, y, right, lower = boxes[number]
        landmarks = (landmarks - [x, y] + 0.5) * 120.0 / [right - x, lower - y] - 0.5
        where, yaw = f"{listing}, line {number + 1}", (yaw_bin(float(yaws[number])),)
        samples.append(Sample(root / "AFLW_GT_crop" / name, landmarks, where, subsets=yaw, key=name))
    return samples


class Aflw(FaceBuilder):
    """AFLW (Köstinger et al., ICCVW 2011) in the protocol of CCL.

    `root` holds `AFLWinfo_release.mat` and AFLW's pictures in `data/flickr/{0,2,3}/`. The subset "frontal" holds the
    faces with all 19 landmarks visible. The protocol's normaliser is "box".
    """

    SUBSETS = ("frontal",)
    ANNOTATIONS, PICTURES = "AFLWinfo_release.mat", "data/flickr"

    def annotation_files(self):
        return [self.root / self.ANNOTATIONS]

    def check_root(self):
        super().check_root()
        if self.scheme.name != "aflw19":
            raise ValueError(f"AFLW (CCL) has 19 landmarks: choose the scheme aflw19, not {self.scheme.name!r}.")
        for name in (self.ANNOTATIONS, self.PICTURES):
            if not (self.root / name).exists():
                raise ValueError(f"{self.root} lacks {name}: expected {self.ANNOTATIONS} and {self.PICTURES}/.")

    def published_splits(self):
        splits = read_aflw(self.root / self.ANNOTATIONS, self.root / self.PICTURES)
        return {name: samples for name, samples in splits.items() if samples}


class AflwCrops(ParamsBuilder):
    """AFLW with 21 landmarks (scheme aflw21) by yaw, as in the tests of 3DDFA: the split "test".

    `root` holds the 120 × 120 crops in `AFLW_GT_crop/`, their names in `AFLW_GT_crop.list` and, in the order of the
    list, `AFLW_GT_pts21.npy` (N, 2, 21; a point that is not positive is missing), `AFLW_GT_crop_yaws.npy` (N,) in
    degrees and `AFLW_GT_crop_roi_box.npy` (N, 4), the box of AFLW's picture that the crop shows.
    """

    SCHEME = "aflw21"

    def annotation_files(self):
        return [self.root / AFLW_LIST]

    def published_splits(self) -> dict[str, Iterable[Sample | BadSample]]:
        return {"test": read_aflw_crops(self.root)}

"""COFW (Burgos-Artizzu et al., ICCV 2013): 29 landmarks, or 68 on its test set."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.builder import FaceBuilder
from jaxlm.data.samples import Sample
from jaxlm.support.errors import BadSample, first_line
from jaxlm.support.matlab import DAMAGED, open_hdf5, png_of, read_dataset, read_mat


def read_cofw(path: Path, suffix: str) -> Iterator[Sample | BadSample]:
    """Samples of `COFW_train.mat` or `COFW_test.mat` (Burgos-Artizzu et al., ICCV 2013), grey or colour.

    Args:
        path: HDF5 file with IsTr (pictures), phisTr (29 x, 29 y, 29 occluded) and bboxesTr (x y width height).
        suffix: suffix of the three fields: "Tr" for the training set, "T" for the test set.

    Raises:
        BadSample: if the file is not of this form.
    """
    images, shapes, boxes = (f"{field}{suffix}" for field in ("Is", "phis", "bboxes"))
    with open_hdf5(path) as file:
        content: Any = file
        try:
            missing = [field for field in (images, shapes, boxes) if field not in content]
            if missing:
                raise BadSample(f"{path} has no field {', '.join(missing)}: it is not COFW's file.")
            references = np.ravel(read_dataset(content[images]))
            annotations, given = read_dataset(content[shapes]).T, read_dataset(content[boxes]).T
        except DAMAGED as error:
            raise (
                error if isinstance(error, BadSample) else BadSample(f"{path} is damaged ({first_line(error)}).")
            ) from None
        count = len(references)
        if annotations.shape != (count, 87) or given.shape != (count, 4):
            raise BadSample(
                f"{path}: {shapes} is {annotations.shape} and {boxes} {given.shape} where {count} pictures need "
                f"({count}, 87) and ({count}, 4)."
            )
        for number, (reference, shape, box) in enumerate(zip(references, annotations, given, strict=True), start=1):
            where = f"{path}, picture {number}"
            try:
                pixels = read_dataset(content[reference]).T  # MATLAB stores columns first
            except DAMAGED as error:
                yield BadSample(f"{where} cannot be read ({first_line(error)}).")
                continue
            if (
                pixels.dtype != np.uint8
                or not pixels.size
                or pixels.ndim not in (2, 3)
                or pixels.shape[2:] not in ((), (3,))
            ):
                yield BadSample(f"{where} is an array {pixels.shape} of {pixels.dtype}, not a picture.")
                continue
            yield Sample(
                image=png_of(pixels),
                landmarks=np.stack([shape[:29], shape[29:58]], axis=-1) - 1.0,
                where=where,
                bbox=corners(box),
                visibility=1.0 - shape[58:],
                key=f"{path.stem}/{number}",
            )


def read_cofw68(path: Path, folder: Path) -> Iterator[Sample | BadSample]:
    """Samples of COFW's test set with the 68 landmarks of Ghiasi & Fowlkes (2015).

    Args:
        path: `COFW_test.mat`, with the pictures and boxes.
        folder: folder `annotations/` of the files `<number>_points.mat` with Points (68, 2) and Occ (68).
    """
    for number, sample in enumerate(read_cofw(path, "T"), start=1):
        if isinstance(sample, Sample):
            points = folder / f"{number}_points.mat"
            try:
                content = read_mat(points, ("Points", "Occ"))
                if content["Points"].shape != (68, 2) or content["Occ"].size != 68:
                    raise BadSample(f"{points} must have 68 Points and 68 flags Occ.")
            except BadSample as error:
                yield error
                continue
            sample.where, sample.landmarks = str(points), content["Points"] - 1.0
            sample.visibility = 1.0 - content["Occ"].ravel()
        yield sample


def corners(box: np.ndarray) -> np.ndarray:
    """Box (4,) x1 y1 x2 y2 in 0-based pixels from MATLAB's x y width height in 1-based pixels."""
    x, y, width, height = np.asarray(box, np.float64)
    return np.array([x - 1, y - 1, x - 1 + width, y - 1 + height])


class Cofw(FaceBuilder):
    """COFW (Burgos-Artizzu et al., ICCV 2013): `COFW_train.mat` and `COFW_test.mat`, or their `_color` versions.

    With the scheme `faces68` it is COFW-68: the test set with the annotations of Ghiasi & Fowlkes (2015), in
    `COFW68_Data/annotations/` beside the `.mat` files.
    """

    ANNOTATIONS68 = "COFW68_Data/annotations"

    def _file(self, split: str):
        color = self.root / f"COFW_{split}_color.mat"
        return color if color.exists() else self.root / f"COFW_{split}.mat"

    def annotation_files(self):
        if self.scheme.name == "faces68":
            return [self._file("test"), self.root / self.ANNOTATIONS68]
        return [self._file(split) for split in ("train", "test")]

    def check_root(self):
        super().check_root()
        if self.scheme.name not in ("cofw29", "faces68"):
            raise ValueError(
                f"COFW has 29 landmarks, COFW-68 has 68: choose the scheme cofw29 or faces68, not {self.scheme.name!r}."
            )
        there = [path.exists() for path in self.annotation_files()]
        if not (all(there) if self.scheme.name == "faces68" else any(there)):
            names = " or ".join(str(path.relative_to(self.root)) for path in self.annotation_files())
            raise ValueError(f"{self.root} is not COFW: it lacks {names}.")

    def published_splits(self):
        if self.scheme.name == "faces68":
            return {"test": read_cofw68(self._file("test"), self.root / self.ANNOTATIONS68)}
        suffixes = {"train": "Tr", "test": "T"}
        present = {split: self._file(split) for split in suffixes if self._file(split).exists()}
        return {split: read_cofw(path, suffixes[split]) for split, path in present.items()}

"""Leeds Sports Pose (Johnson & Everingham, BMVC 2010) and its extension: 14 joints."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from jaxlm.data.builder import FaceBuilder
from jaxlm.data.samples import Sample
from jaxlm.support.errors import BadSample
from jaxlm.support.matlab import read_mat


def read_lsp(folder: Path) -> Iterator[Sample | BadSample]:
    """Samples of Leeds Sports Pose or its extension: `joints.mat` beside `images/im0001.jpg`, …

    Johnson & Everingham, BMVC 2010 and CVPR 2011. LSP holds joints (3, 14, N), all of them annotated; the extension
    holds joints (14, 3, N), where the flag 0 marks a joint without annotation. The box is the whole picture.

    Raises:
        BadSample: if the file is not of this form, or the number of pictures is not N.
    """
    path = folder / "joints.mat"
    joints = read_mat(path, ("joints",))["joints"]
    if joints.ndim != 3 or joints.shape[:2] not in ((3, 14), (14, 3)):
        raise BadSample(f"{path}: joints is {joints.shape}, where LSP has (3, 14, N) and its extension (14, 3, N).")
    extended = joints.shape[:2] == (14, 3)
    joints = np.moveaxis(joints if extended else joints.transpose(1, 0, 2), 2, 0)  # (N, 14, 3)
    pictures = sorted((folder / "images").glob("im*.jpg"))
    if len(pictures) != len(joints):
        raise BadSample(f"{folder}/images has {len(pictures)} pictures im*.jpg where {path} has {len(joints)}.")
    for picture, joint in zip(pictures, joints, strict=True):
        points = joint[:, :2] - 1.0
        if extended:
            points = np.where(joint[:, 2:] > 0, points, np.nan)
        image = cv2.imread(str(picture), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            yield BadSample(f"{picture} is truncated or not a picture; replace or remove it.")
            continue
        bbox = np.array([-0.5, -0.5, image.shape[1] - 0.5, image.shape[0] - 0.5])
        yield Sample(picture, points, f"{path}, {picture.name}", bbox, key=picture.stem)


class Lsp(FaceBuilder):
    """Leeds Sports Pose, or its extension: `joints.mat` and `images/`. Left and right are the person's.

    Args:
        root, cache, scheme and the rest: see `FaceBuilder`.
        num_train: number of pictures of the split "train", the first ones; the rest are "test". 1000 for LSP; 0 puts
            all pictures into "train", as for the extension.
    """

    def __init__(self, root, cache, *, scheme: str, num_train: int = 0, **options):
        if num_train < 0:
            raise ValueError(f"num_train must not be negative, got {num_train}.")
        self.num_train = num_train
        super().__init__(root, cache, scheme=scheme, **options)

    def annotation_files(self):
        return [self.root / "joints.mat"]

    def fingerprint(self):
        return [*super().fingerprint(), str(self.num_train)]

    def check_root(self):
        super().check_root()
        if self.scheme.name != "lsp14":
            raise ValueError(f"LSP has 14 joints: choose the scheme lsp14, not {self.scheme.name!r}.")
        if not (self.root / "joints.mat").exists():
            raise ValueError(f"{self.root} is not LSP: it has no joints.mat.")

    def published_splits(self):
        samples = list(read_lsp(self.root))
        if not self.num_train:
            return {"train": samples}
        if self.num_train >= len(samples):
            raise ValueError(
                f"num_train = {self.num_train} leaves no test set of the {len(samples)} pictures of {self.root}."
            )
        return {"train": samples[: self.num_train], "test": samples[self.num_train :]}

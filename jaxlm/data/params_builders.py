"""Builders of 3DDFA's training and test sets: faces with 3DMM parameters, tested by yaw."""

from collections.abc import Iterable
from pathlib import Path

from jaxlm.data import params_readers
from jaxlm.data.array_readers import read_npy
from jaxlm.data.builders import FaceBuilder
from jaxlm.data.readers import Sample
from jaxlm.data.yaw import YAW_BINS
from jaxlm.support.errors import BadSample


class ParamsBuilder(FaceBuilder):
    """Base of the builders here. Their SUBSETS are bins of the yaw, whose mean the papers print."""

    SUBSETS = YAW_BINS
    SCHEME = "faces68"

    def check_root(self):
        super().check_root()
        if self.scheme.name != self.SCHEME:
            raise ValueError(f"{type(self).__name__} has the scheme {self.SCHEME}, not {self.scheme.name!r}.")


class ThreeHundredWLP(ParamsBuilder):
    """300W-LP (Zhu et al., CVPR 2016): the folder as published, or the TFDS catalogue's `the300w_lp/1.0.0`.

    The parameters are 3DDFA's, of the Basel Face Model; mirrored faces (`*_Flip`) are samples of their own.
    """

    MODES = params_readers.BFM_MODES

    def published_splits(self) -> dict[str, Iterable[Sample | BadSample]]:
        if (self.root / "dataset_info.json").exists():
            return {"train": params_readers.read_catalogue(self.root)}
        return {"train": params_readers.read_3ddfa_folder(self.root)}


class Aflw2000(ParamsBuilder):
    """AFLW2000-3D (Zhu et al., CVPR 2016), split "test": the folder as published, or the catalogue's `aflw2k3d/1.0.0`.

    Args:
        root, cache, scheme and the rest: see `FaceBuilder`.
        labels: file of other annotators' landmarks, `.npy` (N, 2 or 3, 68) in the order of the pictures' names, as
            3DDFA publishes the re-annotation (`AFLW2000-3D-Reannotated.pts68.npy`); "" for the original ones.
    """

    def __init__(self, root, cache, *, scheme: str, labels: str = "", **options):
        self.labels = Path(labels).expanduser() if labels else None
        if not (Path(root).expanduser() / "dataset_info.json").exists():
            self.MODES = params_readers.BFM_MODES  # which the catalogue leaves out
        super().__init__(root, cache, scheme=scheme, **options)

    def fingerprint(self):
        return [*super().fingerprint(), *([] if self.labels is None else [str(self.labels.stat())])]

    def check_root(self):
        super().check_root()
        if self.labels is not None and not self.labels.is_file():
            raise ValueError(f"{self.labels} does not exist: set labels to the re-annotation, or to ''.")

    def published_splits(self) -> dict[str, Iterable[Sample | BadSample]]:
        if (self.root / "dataset_info.json").exists():
            if self.labels is not None:
                raise ValueError("The TFDS catalogue keeps no file names: other labels need AFLW2000-3D as published.")
            return {"test": params_readers.read_catalogue(self.root)}
        labels = None if self.labels is None else read_npy(self.labels)
        return {"test": params_readers.read_3ddfa_folder(self.root, labels)}


class AflwCrops(ParamsBuilder):
    """AFLW by yaw with 21 landmarks (scheme aflw21), split "test", as 3DDFA's tests have it.

    `root` holds `AFLW_GT_crop/` of 120 × 120 crops and, with one entry for each in its list, `AFLW_GT_crop.list`,
    `AFLW_GT_pts21.npy` (N, 2, 21; what is not positive is missing), `AFLW_GT_crop_yaws.npy` (N,) in degrees and
    `AFLW_GT_crop_roi_box.npy` (N, 4), the box of AFLW's picture that the crop shows.
    """

    SCHEME = "aflw21"

    def annotation_files(self):
        return [self.root / params_readers.AFLW_LIST]

    def published_splits(self) -> dict[str, Iterable[Sample | BadSample]]:
        return {"test": params_readers.read_aflw_crops(self.root)}

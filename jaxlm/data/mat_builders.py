"""Builders of the data sets that are published as MATLAB files."""

from jaxlm.data.builders import FaceBuilder
from jaxlm.support import matlab


class Cofw(FaceBuilder):
    """COFW (Burgos-Artizzu et al., ICCV 2013): `COFW_train.mat` and `COFW_test.mat`, or their `_color` versions.

    Under the scheme `faces68` it is COFW-68: the test set with the annotations of Ghiasi & Fowlkes (2015), in
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
            raise ValueError(f"COFW has 29 landmarks (or 68 in COFW-68), not the scheme {self.scheme.name!r}.")
        there = [path.exists() for path in self.annotation_files()]
        if not (all(there) if self.scheme.name == "faces68" else any(there)):
            names = " or ".join(str(path.relative_to(self.root)) for path in self.annotation_files())
            raise ValueError(f"{self.root} is not COFW: it lacks {names}.")

    def published_splits(self):
        if self.scheme.name == "faces68":
            return {"test": matlab.read_cofw68(self._file("test"), self.root / self.ANNOTATIONS68)}
        suffixes = {"train": "Tr", "test": "T"}
        present = {split: self._file(split) for split in suffixes if self._file(split).exists()}
        return {split: matlab.read_cofw(path, suffixes[split]) for split, path in present.items()}


class Aflw(FaceBuilder):
    """AFLW (Köstinger et al., ICCVW 2011) in the protocol of CCL: `AFLWinfo_release.mat` beside AFLW's own
    `data/flickr/{0,2,3}/`. The subset "frontal" has all 19 landmarks visible; its normaliser is "box".
    """

    SUBSETS = ("frontal",)
    ANNOTATIONS, PICTURES = "AFLWinfo_release.mat", "data/flickr"

    def annotation_files(self):
        return [self.root / self.ANNOTATIONS]

    def check_root(self):
        super().check_root()
        if self.scheme.name != "aflw19":
            raise ValueError(f"This protocol has 19 landmarks: choose the scheme aflw19, not {self.scheme.name!r}.")
        for name in (self.ANNOTATIONS, self.PICTURES):
            if not (self.root / name).exists():
                raise ValueError(f"{self.root} lacks {name}: expected {self.ANNOTATIONS} and {self.PICTURES}/.")

    def published_splits(self):
        splits = matlab.read_aflw(self.root / self.ANNOTATIONS, self.root / self.PICTURES)
        return {name: samples for name, samples in splits.items() if samples}


class Lsp(FaceBuilder):
    """Leeds Sports Pose, or its extension: `joints.mat` and `images/`. Person-centric joints.

    Args:
        root, cache, scheme and the rest: see `FaceBuilder`.
        num_train: the first pictures are the split "train", the rest "test"; 1000 in LSP; 0 makes all of them "train",
            as in the extension.
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
        samples = list(matlab.read_lsp(self.root))
        if not self.num_train:
            return {"train": samples}
        if self.num_train >= len(samples):
            raise ValueError(f"num_train = {self.num_train} leaves no test set of the {len(samples)} of {self.root}.")
        return {"train": samples[: self.num_train], "test": samples[self.num_train :]}

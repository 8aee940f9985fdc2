"""The user's own faces: a CSV, COCO JSON, imglab XML or `.npz` file, or a folder of points."""

import os
from collections.abc import Sequence
from pathlib import Path

from jaxlm.data.builder import FaceBuilder, file_stats
from jaxlm.data.readers.arrays import read_npz
from jaxlm.data.readers.coco import read_coco
from jaxlm.data.readers.imglab import read_imglab
from jaxlm.data.readers.points import points_files, read_points_folder
from jaxlm.data.readers.tables import picture_names, read_csv
from jaxlm.data.samples import YAW_BINS, Sample, picture_of_table

_TABLES = (".csv", ".tsv", ".json", ".xml", ".npz")


class OwnData(FaceBuilder):
    """The user's own faces, split "train": a file, or a folder of points.

    The file is a CSV or TSV table, COCO-keypoints JSON, XML of dlib's imglab or an `.npz`. A folder with exactly one
    `landmarks.csv` or `.json` file is read from that file, any other folder from its `.pts` or `.txt` files, see
    `jaxlm.data.readers.points`. If a CSV file has a column `yaw`, the subsets are the bins of yaw.

    Args:
        images: folder of the pictures that a file names, where they are not beside it.
        missing: in a folder of points, coordinates that mark a missing landmark: −1, as some tools write; () for none.
    """

    SUBSETS = YAW_BINS
    READER = 2

    def __init__(
        self, root: str | Path, cache: str | Path, *, images: str = "", missing: Sequence[float] = (-1.0,), **options
    ):
        self.images, self.missing = images, tuple(float(value) for value in missing)
        super().__init__(root, cache, **options)

    def _source(self) -> Path:
        if self.root.is_dir():
            files = [*self.root.glob("landmarks.csv"), *self.root.glob("*.json")]  # an .npz must be the root itself
            if len(files) == 1:
                return files[0]
        return self.root

    def annotation_files(self):
        source = self._source()
        if source.is_file():
            return [source]
        points = points_files(source)
        return [*points, *(path.with_suffix(".rct") for path in points if path.with_suffix(".rct").exists())]

    def check_root(self):
        super().check_root()
        source = self._source()
        if source.is_file() and source.suffix.lower() not in _TABLES:
            raise ValueError(f"{source} is none of {', '.join(_TABLES)}: name such a file, or a folder of points.")
        if self.images and not Path(self.images).expanduser().is_dir():
            raise ValueError(f"{self.images} is no folder: set the source's images to that of the pictures.")
        if not self.annotation_files():
            raise ValueError(
                f"{self.root} holds no .pts or .txt files of points; expected these, one landmarks.csv or one .json."
            )

    def fingerprint(self):
        """Of a file: itself and the pictures that it names, not all that lies beside it."""
        options = [f"images {self.images}", f"missing {self.missing}"]
        if not self._source().is_file():
            return [*super().fingerprint(), *options]
        source = self._source()
        if source.suffix.lower() in (".csv", ".tsv"):
            named = {picture_of_table(source, name, self.images) for name in picture_names(source)}
        else:
            samples = [sample for sample in self.published_splits()["train"] if isinstance(sample, Sample)]
            named = {sample.image for sample in samples if isinstance(sample.image, Path)}
            self.notices.clear()
        pictures = sorted(path for path in named if os.path.isfile(path))
        return [
            str(self.root.resolve()),
            *self.reader_versions(),
            *options,
            *file_stats([source]),
            *map(str, pictures),
            *file_stats(pictures),
        ]

    def published_splits(self):
        source, count = self._source(), self.scheme.num_landmarks
        match source.suffix.lower() if source.is_file() else "":
            case ".csv" | ".tsv":
                return {"train": read_csv(source, count, images=self.images)}
            case ".json":
                return {"train": read_coco(source, count, self.notices, images=self.images)}
            case ".xml":
                return {"train": read_imglab(source, count, self.notices, images=self.images)}
            case ".npz":
                return {"train": read_npz(source, count)}
            case _:
                return {"train": read_points_folder(source, count, self.notices, missing=self.missing)}

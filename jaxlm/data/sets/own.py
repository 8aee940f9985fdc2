"""The user's own faces: a CSV, COCO JSON or `.npz` file, or a folder of points."""

from pathlib import Path

from jaxlm.data.builder import FaceBuilder
from jaxlm.data.readers.arrays import read_npz
from jaxlm.data.readers.points import points_files, read_points_folder
from jaxlm.data.readers.tables import read_coco, read_csv
from jaxlm.data.samples import YAW_BINS


class OwnData(FaceBuilder):
    """The user's own faces, split "train": a CSV file, a COCO-keypoints JSON file, an `.npz`, or a folder of points.

    A folder with exactly one `landmarks.csv` or `.json` file is read from that file, any other folder from its `.pts`
    or `.txt` files, see `jaxlm.data.readers.points`. If a CSV file has a column `yaw`, the subsets are the bins of yaw.
    """

    SUBSETS = YAW_BINS

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
        if not self.annotation_files():
            raise ValueError(
                f"{self.root} holds no .pts or .txt files of points; expected these, one landmarks.csv or one .json."
            )

    def published_splits(self):
        source, count = self._source(), self.scheme.num_landmarks
        if source.suffix == ".csv":
            return {"train": read_csv(source, count)}
        if source.suffix == ".json":
            return {"train": read_coco(source, count)}
        if source.suffix == ".npz":
            return {"train": read_npz(source, count)}
        return {"train": read_points_folder(source, count)}

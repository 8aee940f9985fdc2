"""Menpo-3D (Zafeiriou et al., ICCVW 2017): 68 of 84 landmarks on videos."""

from pathlib import Path

import numpy as np

from jaxlm.data.readers.points import read_pts
from jaxlm.data.sets.three_hundred_w import ThreeHundredVW
from jaxlm.support.errors import BadSample


class Menpo3D(ThreeHundredVW):
    """Menpo-3D (Zafeiriou et al., ICCVW 2017), split "test": 55 videos of 300-VW, in the folders of 300-VW.

    The `.pts` files have 84 landmarks x y z, of which 68 are evaluated.

    Args:
        root, cache, scheme and the rest: see `FaceBuilder`.
        indices: text file with the indices, from 0, of the 68 evaluated landmarks among those of a `.pts` file, which
            Menpo-3D does not publish; "" if the files have 68.
    """

    SPLITS = {}

    def __init__(self, root, cache, *, scheme: str, indices: str = "", **options):
        self.indices = np.arange(68)
        if indices:
            path = Path(indices).expanduser()
            try:
                self.indices = np.array([int(word) for word in path.read_text(errors="replace").split()])
            except (OSError, ValueError) as error:
                raise ValueError(f"{path} must hold the indices of 68 landmarks ({error}).") from None
            if len(self.indices) != 68 or self.indices.min() < 0:
                raise ValueError(f"{path} holds {len(self.indices)} numbers; expected 68 indices of landmarks from 0.")
        super().__init__(root, cache, scheme=scheme, **options)

    def fingerprint(self):
        return [*super().fingerprint(), str(self.indices.tolist())]

    def published_splits(self):
        return {"test": self._samples(sorted(path.parent for path in self.root.glob("*/annot")))}

    def _read_points(self, path: Path) -> np.ndarray:
        rows = [line.split() for line in path.read_text(errors="replace").splitlines()]
        widths = [len(row) for row in rows if row and row[0][:1] not in "vn{}"]
        count, columns = len(widths), max(widths, default=0)
        if self.indices.max() >= count or columns not in (2, 3):
            raise BadSample(
                f"{path} has {count} points of {columns} numbers: expected at least {self.indices.max() + 1} x y or "
                "x y z; set the source's indices to a file that names the 68 evaluated landmarks."
            )
        return read_pts(path, count, columns)[self.indices, :2]

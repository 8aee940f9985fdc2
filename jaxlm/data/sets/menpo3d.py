"""Menpo-3D (Zafeiriou et al., ICCVW 2017): 68 of 84 landmarks on videos."""

from pathlib import Path

import numpy as np

from jaxlm.data.readers.points import read_pts
from jaxlm.data.sets.three_hundred_w import ThreeHundredVW
from jaxlm.support.errors import BadSample


class Menpo3D(ThreeHundredVW):
    """Menpo-3D (Zafeiriou et al., ICCVW 2017), split "test": 55 videos of 300-VW in its folders.

    Their `.pts` files have 84 landmarks x y z, of which 68 are evaluated.

    Args:
        root, cache, scheme and the rest: see `FaceBuilder`.
        indices: text file with the numbers, from 0, of the 68 landmarks among those of a `.pts` file, which Menpo-3D
            does not name; "" where the files have 68.
    """

    SPLITS = {}

    def __init__(self, root, cache, *, scheme: str, indices: str = "", **options):
        self.indices = np.arange(68)
        if indices:
            path = Path(indices).expanduser()
            try:
                self.indices = np.array([int(word) for word in path.read_text().split()])
            except (OSError, ValueError) as error:
                raise ValueError(f"{path} must hold 68 numbers of landmarks ({error}).") from None
            if len(self.indices) != 68 or self.indices.min() < 0:
                raise ValueError(f"{path} holds {len(self.indices)} numbers; expected 68 landmarks counted from 0.")
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
                "x y z; name the 68 that are evaluated by the source's indices."
            )
        return read_pts(path, count, columns)[self.indices, :2]

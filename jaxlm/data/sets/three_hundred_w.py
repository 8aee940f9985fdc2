"""300-W (Sagonas et al., ICCVW 2013) and 300-VW (Shen et al., ICCVW 2015): 68 landmarks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxlm import geometry
from jaxlm.data.builder import FaceBuilder
from jaxlm.data.readers.points import read_points_folder, read_pts
from jaxlm.data.samples import Sample
from jaxlm.data.video_builder import VideoBuilder, VideoSample
from jaxlm.data.video_files import VIDEOS, VideoFile
from jaxlm.support.errors import BadSample


class ThreeHundredW(FaceBuilder):
    """300-W (Sagonas et al., ICCVW 2013) in its folders: `afw`, `helen`, `lfpw`, `ibug`, `300W` (private test).

    Folders that are missing are left out and named in a message.
    """

    SUBSETS = ("common", "challenge", "indoor", "outdoor")
    FOLDERS = {
        "train": {"afw": (), "helen/trainset": (), "lfpw/trainset": ()},
        "test": {"helen/testset": ("common",), "lfpw/testset": ("common",), "ibug": ("challenge",)},
        "private": {"300W/01_Indoor": ("indoor",), "300W/02_Outdoor": ("outdoor",)},
    }

    def annotation_files(self):
        return [self.root / folder for split in self.FOLDERS.values() for folder in split]

    def check_root(self):
        super().check_root()
        if not any(path.is_dir() for path in self.annotation_files()):
            raise ValueError(
                f"{self.root} is not 300-W: it has none of {', '.join(f for s in self.FOLDERS.values() for f in s)}."
            )

    def published_splits(self):
        splits = {}
        for split, folders in self.FOLDERS.items():
            present = {folder: subsets for folder, subsets in folders.items() if (self.root / folder).is_dir()}
            if present:
                splits[split] = self._samples(present)
        return splits

    def _samples(self, folders: dict[str, tuple[str, ...]]) -> Iterator[Sample | BadSample]:
        for folder, subsets in folders.items():
            for sample in read_points_folder(self.root / folder, self.scheme.num_landmarks):
                if isinstance(sample, Sample):
                    sample.subsets, sample.key = subsets, f"{folder}/{sample.key}"
                yield sample


class ThreeHundredVW(VideoBuilder):
    """300-VW (Shen et al., ICCVW 2015): folders `ID/` with `vid.avi` (or pictures in `imgs/`) and `annot/NNNNNN.pts`.

    The splits are "train" and the three test categories. A frame without a `.pts` file counts as one without
    the face. The box is the one around the landmarks, because the data set gives no box.
    """

    SPLITS = {
        "category1": "114 124 125 126 150 158 401 402 505 506 507 508 509 510 511 514 515 518 519 520 521 522 524 525 "
        "537 538 540 541 546 547 548",
        "category2": "203 208 211 212 213 214 218 224 403 404 405 406 407 408 409 412 550 551 553",
        "category3": "410 411 516 517 526 528 529 530 531 533 557 558 559 562",
    }

    def annotation_files(self):
        return [self.root]

    def check_root(self):
        super().check_root()
        if self.scheme.name != "faces68":
            raise ValueError(f"300-VW has 68 landmarks: choose the scheme faces68, not {self.scheme.name!r}.")
        if not any(self.root.glob("*/annot")):
            raise ValueError(f"{self.root} is not 300-VW: no folder in it has a folder annot.")

    def published_splits(self):
        category = {key: split for split, ids in self.SPLITS.items() for key in ids.split()}
        splits: dict[str, list[Path]] = {}
        for folder in sorted(path.parent for path in self.root.glob("*/annot")):
            splits.setdefault(category.get(folder.name, "train"), []).append(folder)
        return {split: self._samples(folders) for split, folders in splits.items()}

    def _samples(self, folders: list[Path]) -> Iterator[VideoSample | BadSample]:
        for folder in folders:
            try:
                yield self._sample(folder)
            except BadSample as error:
                yield error

    def _sample(self, folder: Path) -> VideoSample:
        video = next((p for p in sorted(folder.iterdir()) if p.suffix.lower() in VIDEOS), folder / "imgs")
        if not video.exists():
            raise BadSample(f"{folder} has neither vid.avi nor imgs/; download it again.")
        # Frames are numbered from 1, and so are the pictures that some copies hold instead of the video.
        annotations = {int(p.stem): p for p in sorted((folder / "annot").glob("*.pts")) if p.stem.isdigit()}
        if video.is_dir():
            numbers = [int(p.stem) if p.stem.isdigit() else -1 for p in VideoFile(video).pictures()]
        else:
            numbers = list(range(1, max(annotations, default=0) + 1))
        if not set(numbers) & set(annotations):
            raise BadSample(f"{folder / 'annot'} has no NNNNNN.pts of a frame of {video.name}; download it again.")
        landmarks = np.full((len(numbers), self.scheme.num_landmarks, 2), np.nan)
        for frame, number in enumerate(numbers):
            if number in annotations:
                landmarks[frame] = self._read_points(annotations[number])
        boxes = np.full((len(numbers), 4), np.nan)
        present = np.isfinite(landmarks).all(axis=(1, 2))
        boxes[present] = [geometry.box_of_points(shape) for shape in landmarks[present]]
        return VideoSample(video, landmarks, boxes, folder.name)

    def _read_points(self, path: Path) -> np.ndarray:
        return read_pts(path, self.scheme.num_landmarks)

"""WFLW (Wu et al., CVPR 2018) and WFLW-V (Micaelli et al., CVPR 2023): 98 landmarks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxlm.data.builder import FaceBuilder
from jaxlm.data.readers.arrays import read_boxes, read_npy
from jaxlm.data.samples import Sample
from jaxlm.data.video_builder import VideoBuilder, VideoSample
from jaxlm.data.video_files import VIDEOS
from jaxlm.schemes import FACES68_OF_FACES98
from jaxlm.support.errors import BadSample

WFLW_SUBSETS = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")


def read_wflw(annotations: Path, images: Path) -> Iterator[Sample | BadSample]:
    """Samples of a WFLW list. A line holds 196 coordinates, the box, six attribute flags and the picture's name."""
    with annotations.open(encoding="utf-8", errors="replace") as file:
        for line, text in enumerate(file, start=1):
            row = text.split(maxsplit=206)
            where = f"{annotations}, line {line}"
            if not row:
                continue
            if len(row) != 207:
                yield BadSample(f"{where} has {len(row)} columns where WFLW's lists have 207.")
                continue
            try:
                numbers = np.array([float(cell) for cell in row[:206]])
            except ValueError as error:
                yield BadSample(f"{where} has a column that is not a number ({error}).")
                continue
            if not np.isfinite(numbers).all():
                yield BadSample(f"{where} has a number that is not finite; correct it or leave the line out.")
                continue
            subsets = tuple(n for n, flag in zip(WFLW_SUBSETS, numbers[200:], strict=True) if flag == 1)
            name = row[206].strip()
            points = numbers[:196].reshape(98, 2)
            yield Sample(images / name, points, where, numbers[196:200], None, subsets, f"{name}#{line}")


class Wflw(FaceBuilder):
    """WFLW (Wu et al., CVPR 2018): `WFLW_images/` and `WFLW_annotations/` side by side, as published.

    With the scheme `faces68` the 68 landmarks among the 98 are read, so that a model of 68 landmarks can be evaluated.
    """

    SUBSETS = WFLW_SUBSETS
    LIST = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_{}.txt"

    def annotation_files(self):
        return [self.root / self.LIST.format(split) for split in ("train", "test")]

    def check_root(self):
        super().check_root()
        if self.scheme.name not in ("faces98", "faces68"):
            raise ValueError(f"WFLW has 98 landmarks: choose scheme faces98 or faces68, not {self.scheme.name!r}.")
        if not any(path.exists() for path in self.annotation_files()):
            raise ValueError(f"{self.root} is not WFLW: it has no {self.LIST.format('train')}.")

    def published_splits(self):
        images = self.root / "WFLW_images"
        lists = {split: self.root / self.LIST.format(split) for split in ("train", "test")}
        return {split: self._samples(path, images) for split, path in lists.items() if path.exists()}

    def _samples(self, annotations: Path, images: Path) -> Iterator[Sample | BadSample]:
        for sample in read_wflw(annotations, images):
            if isinstance(sample, Sample) and self.scheme.num_landmarks == 68:
                sample.landmarks = sample.landmarks[FACES68_OF_FACES98]
            yield sample


class WflwV(VideoBuilder):
    """WFLW-V (Micaelli et al., CVPR 2023): `landmarks/ID.npy`, `bboxes/ID.npy`, `videos/ID.mp4`, one ID for each video.

    `hard_video_IDs.txt` and `easy_video_IDs.txt` beside the folders list the IDs of the splits "hard" and "easy";
    without them all videos are the split "test". Videos that are missing are left out and named in a message.
    """

    LISTS = {"hard": "hard_video_IDs.txt", "easy": "easy_video_IDs.txt"}

    def annotation_files(self):
        return [self.root / name for name in ("landmarks", "bboxes", "videos")]

    def check_root(self):
        super().check_root()
        if self.scheme.name not in ("faces98", "faces68"):
            raise ValueError(f"WFLW-V has 98 landmarks: choose scheme faces98 or faces68, not {self.scheme.name!r}.")
        missing = [path.name for path in WflwV.annotation_files(self) if not path.is_dir()]
        if missing:
            raise ValueError(f"{self.root} is not WFLW-V: it has no folder {', '.join(missing)}.")

    def published_splits(self):
        splits = {}
        for split, name in self.LISTS.items():
            if (self.root / name).exists():
                lines = (self.root / name).read_text(errors="replace").splitlines()
                ids = [line.strip() for line in lines if line.strip()]
                splits[split] = self._samples(ids)
        if not splits:
            splits["test"] = self._samples(sorted(path.stem for path in (self.root / "landmarks").glob("*.npy")))
        return splits

    def _samples(self, ids: list[str]) -> Iterator[VideoSample | BadSample]:
        absent, folder = [], self.root / "videos"
        videos = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in VIDEOS or p.is_dir()}
        for key in ids:
            video = videos.get(key)
            if video is None:
                absent.append(key)
                continue
            try:
                landmarks = read_npy(self.root / "landmarks" / f"{key}.npy", (None, None, 2))
                if landmarks.shape[1] not in (98, self.scheme.num_landmarks):
                    raise BadSample(
                        f"landmarks/{key}.npy has {landmarks.shape[1]} points a frame; expected 98, "
                        "or as many as the scheme has."
                    )
                boxes = read_boxes(self.root / "bboxes" / f"{key}.npy")
            except BadSample as error:
                yield error
                continue
            if self.scheme.num_landmarks != landmarks.shape[1]:
                landmarks = landmarks[:, FACES68_OF_FACES98]
            yield VideoSample(video, landmarks, boxes, key)
        if absent:
            names = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
            self.notices.append(f"{self.root} lacks {len(absent)} of {len(ids)} videos ({names}); they are left out.")

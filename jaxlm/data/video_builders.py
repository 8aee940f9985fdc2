"""TFDS builders of labelled videos. A record names its video file, which is decoded anew each time it is used."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxlm import geometry
from jaxlm.data import readers
from jaxlm.data.builders import FaceBuilder
from jaxlm.data.clips import VIDEOS, VideoFile
from jaxlm.schemes import FACES68_OF_FACES98
from jaxlm.support.errors import BadSample


@dataclasses.dataclass
class VideoSample:
    """One annotated video of one face.

    Attributes:
        video: path of the file, or of a folder of pictures.
        landmarks: (T, K, 2) in 0-based pixels; NaN where a landmark is missing, in every one where the face is lost.
        bboxes: (T, 4) x1 y1 x2 y2; NaN where the face is lost.
        key: identifies the video within its data set.
    """

    video: Path
    landmarks: np.ndarray
    bboxes: np.ndarray
    key: str


class VideoBuilder(FaceBuilder):
    """Base of the builders of videos; options as those of `FaceBuilder`."""

    def published_splits(self) -> dict[str, Iterable[VideoSample | BadSample]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The data set's own splits."""
        raise NotImplementedError

    def _info(self):
        count = self.scheme.num_landmarks
        features = {
            "video": tfds.features.Text(),
            "key": tfds.features.Text(),
            "landmarks": tfds.features.Tensor(shape=(None, count, 2), dtype=np.float32),
            "mask": tfds.features.Tensor(shape=(None, count), dtype=np.uint8),
            "bbox": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, samples: Any):
        for number, sample in enumerate(samples):
            try:
                if isinstance(sample, BadSample):
                    raise sample
                check_video(sample)
            except BadSample as error:
                if self.on_bad == "error":
                    raise
                self.skipped.append(str(error))
                continue
            mask = np.asarray(np.isfinite(sample.landmarks).all(axis=-1))
            record = {
                "video": str(sample.video.resolve()),
                "key": sample.key,
                "landmarks": np.where(mask[..., None], sample.landmarks, 0.0).astype(np.float32),
                "mask": mask.astype(np.uint8),
                "bbox": sample.bboxes.astype(np.float32),
            }
            yield f"{number:06d}", record


def load_boxes(path: Path) -> np.ndarray:
    """Boxes (T, 4) of a `.npy` file with as many columns or more.

    Raises:
        BadSample: for another form.
    """
    boxes = _load(path, (None, None))
    if boxes.shape[1] < 4:
        raise BadSample(f"{path} has {boxes.shape[1]} columns; expected x1 y1 x2 y2.")
    return boxes[:, :4]


def check_boxes(boxes: np.ndarray, shape: tuple[int, ...], key: str) -> None:
    """Raises a BadSample for a box (T, 4) without area or outside a video of (H, W) pixels."""
    present = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    height, width = shape
    x1, y1, x2, y2 = boxes[present].T
    bad = present[~((x2 > x1) & (y2 > y1) & (x1 < width) & (y1 < height) & (x2 > 0) & (y2 > 0))]
    if len(bad):
        box = " ".join(f"{value:g}" for value in boxes[bad[0]])
        raise BadSample(
            f"{key}: the box {box} of frame {bad[0]} has no area or lies outside the {width}×{height} video; "
            "expected x1 y1 x2 y2 in its pixels."
        )


def check_video(sample: VideoSample) -> None:
    """Raises a BadSample for a video that cannot be opened, is shorter than its labels, or has boxes outside it."""
    video = VideoFile(sample.video)
    frames = len(sample.landmarks)
    if frames == 0:
        raise BadSample(f"{sample.key} has no labelled frame; take it away.")
    if len(sample.bboxes) != frames:
        raise BadSample(f"{sample.key}: there are {frames} frames of landmarks, but {len(sample.bboxes)} boxes.")
    # What a container promises may be more than it holds, or less.
    if (held := video.count()) < frames:
        raise BadSample(
            f"{sample.video} has {held} frames, but {frames} are labelled: it is truncated; fetch it again."
        )
    check_boxes(sample.bboxes, video.shape, sample.key)


class WflwV(VideoBuilder):
    """WFLW-V (Micaelli et al., CVPR 2023): `landmarks/ID.npy`, `bboxes/ID.npy`, `videos/ID.mp4`, one ID a video.

    Beside the folders `hard_video_IDs.txt` and `easy_video_IDs.txt` list the IDs of the splits "hard" and "easy";
    without them all videos are the split "test". Videos that are gone from the web are left out and listed.
    """

    LISTS = {"hard": "hard_video_IDs.txt", "easy": "easy_video_IDs.txt"}

    def annotation_files(self):
        return [self.root / name for name in ("landmarks", "bboxes", "videos")]

    def check_root(self):
        super().check_root()
        if self.scheme.name not in ("faces98", "faces68"):
            raise ValueError(f"WFLW-V has 98 landmarks (or the 68 among them), not the scheme {self.scheme.name!r}.")
        missing = [path.name for path in WflwV.annotation_files(self) if not path.is_dir()]
        if missing:
            raise ValueError(f"{self.root} is not WFLW-V: it has no folder {', '.join(missing)}.")

    def published_splits(self):
        splits = {}
        for split, name in self.LISTS.items():
            if (self.root / name).exists():
                ids = [line.strip() for line in (self.root / name).read_text().splitlines() if line.strip()]
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
                landmarks = _load(self.root / "landmarks" / f"{key}.npy", (None, None, 2))
                if landmarks.shape[1] not in (98, self.scheme.num_landmarks):
                    raise BadSample(
                        f"landmarks/{key}.npy has {landmarks.shape[1]} points a frame; expected 98, "
                        "or what the scheme has."
                    )
                boxes = load_boxes(self.root / "bboxes" / f"{key}.npy")
            except BadSample as error:
                yield error
                continue
            if self.scheme.num_landmarks != landmarks.shape[1]:
                landmarks = landmarks[:, FACES68_OF_FACES98]
            yield VideoSample(video, landmarks, boxes, key)
        if absent:
            names = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
            self.notices.append(f"{self.root} lacks {len(absent)} of {len(ids)} videos ({names}); going on without.")


def _load(path: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    """An array of numbers of a shape, None for any; never anything pickled."""
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise BadSample(f"{path} is missing.") from None
    except (ValueError, OSError, EOFError) as error:
        raise BadSample(f"{path} is not an array of numbers ({error}).") from None
    if not isinstance(array, np.ndarray):
        raise BadSample(f"{path} holds several arrays; expected one, as numpy.save writes it.")
    fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if not fits or not np.issubdtype(array.dtype, np.number):
        wanted = " × ".join("any" if n is None else str(n) for n in shape)
        raise BadSample(f"{path} holds {array.dtype} numbers of shape {array.shape}; expected {wanted}.")
    return array.astype(np.float64)


def write_labels(root: Path, key: str, landmarks: np.ndarray, bboxes: np.ndarray, **more: np.ndarray) -> None:
    """Writes a video's labels in WFLW-V's layout.

    Args:
        root: of the data set.
        key: of the video.
        landmarks: (T, 98, 2), NaN where the face is lost.
        bboxes: (T, 4).
        **more: further arrays, each into a folder of its name.
    """
    for name, array in {"landmarks": landmarks, "bboxes": bboxes, **more}.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        partial = root / name / f".{key}.partial.npy"
        np.save(partial, np.asarray(array, np.float32))
        os.replace(partial, root / name / f"{key}.npy")


class ThreeHundredVW(VideoBuilder):
    """300-VW (Shen et al., ICCVW 2015): folders `ID/` with `vid.avi` (or pictures in `imgs/`) and `annot/NNNNNN.pts`.

    The splits are "train" and the three test categories. Frames without a `.pts` file are lost faces; the box is the
    landmarks', because the data set gives none.
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
            raise ValueError(f"300-VW has 68 landmarks, not the scheme {self.scheme.name!r}.")
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
            raise BadSample(f"{folder} has neither vid.avi nor imgs/; fetch it again.")
        # Frames are numbered from 1, and so are the pictures that some copies hold instead of the video.
        annotations = {int(p.stem): p for p in sorted((folder / "annot").glob("*.pts")) if p.stem.isdigit()}
        if video.is_dir():
            numbers = [int(p.stem) if p.stem.isdigit() else -1 for p in VideoFile(video).pictures()]
        else:
            numbers = list(range(1, max(annotations, default=0) + 1))
        if not set(numbers) & set(annotations):
            raise BadSample(f"{folder / 'annot'} has no NNNNNN.pts of a frame of {video.name}; fetch it again.")
        landmarks = np.full((len(numbers), self.scheme.num_landmarks, 2), np.nan)
        for frame, number in enumerate(numbers):
            if number in annotations:
                landmarks[frame] = self._read_points(annotations[number])
        boxes = np.full((len(numbers), 4), np.nan)
        present = np.isfinite(landmarks).all(axis=(1, 2))
        boxes[present] = [geometry.box_of_points(shape) for shape in landmarks[present]]
        return VideoSample(video, landmarks, boxes, folder.name)

    def _read_points(self, path: Path) -> np.ndarray:
        return readers.read_pts(path, self.scheme.num_landmarks)


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
        return readers.read_pts(path, count, columns)[self.indices, :2]

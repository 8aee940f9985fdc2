"""Base of the TFDS builders: prepares a published data set once as ArrayRecord files, read without TensorFlow.

The encoded bytes of the pictures are stored unchanged, so the cache is as large as the data set. A sample that cannot
be used stops the preparation with a message that names its file and line; with `on_bad="skip"` it is left out, counted
and listed.
"""

import contextlib
import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from jaxlm import geometry
from jaxlm.data.samples import Sample, validate
from jaxlm.schemes import Scheme, get_scheme, self_contained
from jaxlm.support.errors import BadSample
from jaxlm.support.files import walk
from jaxlm.support.pictures import as_stored
from jaxlm.support.storage import is_remote


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS: nothing is downloaded."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        tfds.enable_progress_bar()


class FaceBuilder(tfds.core.GeneratorBasedBuilder):
    """Base of the builders; a subclass defines the splits.

    Args:
        root: folder or file of the data set as published.
        cache: folder of the prepared files.
        scheme: name of the landmark scheme.
        heldout: fraction of the split "train" that becomes the split "heldout", chosen by a hash of the group.
        validation: further fraction that becomes the split "validation", to choose settings on. "heldout" does not
            depend on it.
        group: regular expression; samples whose keys give the same match, such as one person, stay in the same split.
            Without a match the faces of one picture stay together.
        on_bad: "error" raises at a sample that cannot be used, "skip" leaves it out.
        upright: whether the landmarks are those of pictures turned as their EXIF says; otherwise of the stored pixels.
    """

    VERSION = tfds.core.Version("1.0.0")
    # Version of the records of this class. Raise it when they change, so that cached data is prepared again.
    # A subclass with its own reader has its own number, in addition to those of its bases.
    READER = 3
    SUBSETS: tuple[str, ...] = ()
    # Numbers of identity and expression modes of the records' parameters; None if the records have no parameters.
    MODES: tuple[int, int] | None = None

    def __init__(
        self,
        root: str | Path,
        cache: str | Path,
        *,
        scheme: str,
        heldout: float = 0.0,
        validation: float = 0.0,
        group: str = "",
        on_bad: str = "error",
        upright: bool = True,
    ):
        if on_bad not in ("error", "skip"):
            raise ValueError(f'on_bad must be "error" or "skip", got {on_bad!r}.')
        if not 0 <= heldout <= heldout + validation < 1:
            raise ValueError(f"heldout and validation must lie in [0, 1) together, got {heldout} and {validation}.")
        if is_remote(cache):
            raise ValueError(f"data.cache must be a local folder, got {cache}; data.root may lie on object storage.")
        self.root = Path(root).expanduser()
        self.scheme: Scheme = get_scheme(scheme)
        self.heldout, self.validation, self.group, self.on_bad = heldout, validation, re.compile(group), on_bad
        self.upright = upright
        self.skipped: list[str] = []
        self.notices: list[str] = []  # notices of the preparation, printed each time the data set is opened
        self.check_root()
        identity = [type(self).__name__, self_contained(scheme), str(heldout), group, on_bad]
        # Prepared data of before these options keep their name.
        identity += [f"validation {validation}"] * bool(validation) + ["as stored"] * (not upright)
        fingerprint = hashlib.sha256("\n".join([*identity, *self.fingerprint()]).encode()).hexdigest()[:16]
        config = tfds.core.BuilderConfig(name=fingerprint, version=self.VERSION)
        with _quiet():
            super().__init__(config=config, data_dir=Path(cache).expanduser(), file_format="array_record")

    # Methods that a subclass defines.

    def published_splits(self) -> dict[str, Iterable[Sample | BadSample]]:
        """Samples of each split, by the split's name."""
        raise NotImplementedError

    def annotation_files(self) -> list[Path]:
        """Annotation files and folders of a complete copy; `prepare` names those that are missing."""
        return [self.root]

    def check_root(self) -> None:
        """Raises ValueError, with a message that names the expected files, if `root` is not this data set."""
        if not self.root.exists():
            raise ValueError(
                f"{self.root} does not exist: name the folder or file of {type(self).__name__}'s data, "
                "with --config.data.root for a config's own sets or --root for another set."
            )

    # Methods for the cache and for TFDS.

    def fingerprint(self) -> list[str]:
        """Texts that identify the cache: path of the root, reader versions, and name, size and time of every file."""
        folder = self.root if self.root.is_dir() else self.root.parent
        files = sorted(base / name for base, _, names in walk(folder) for name in names if (base / name).is_file())
        return [str(self.root.resolve()), *self.reader_versions(), *file_stats(files, folder)]

    @classmethod
    def reader_versions(cls) -> list[str]:
        """Name and `READER` of this class and of each of its bases that defines its own `READER`."""
        return [f"{base.__name__} {base.READER}" for base in cls.__mro__ if "READER" in vars(base)]

    def _info(self) -> tfds.core.DatasetInfo:
        count = self.scheme.num_landmarks
        features = {
            "image": tfds.features.Tensor(shape=(), dtype=np.object_),
            "key": tfds.features.Text(),
            "landmarks": tfds.features.Tensor(shape=(count, 2), dtype=np.float32),
            "mask": tfds.features.Tensor(shape=(count,), dtype=np.uint8),
            "visibility": tfds.features.Tensor(shape=(count,), dtype=np.float32),
            "bbox": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            "subsets": tfds.features.Tensor(shape=(max(len(self.SUBSETS), 1),), dtype=np.uint8),
        }
        if self.MODES:
            features["params"] = tfds.features.Tensor(shape=(12 + sum(self.MODES),), dtype=np.float64)
        # `dataset_info_from_configs` is not used: it looks for files of TFDS beside the module of a subclass.
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager
        splits = self.published_splits()
        generators = {name: self._generate_examples(samples) for name, samples in splits.items()}
        if (self.heldout or self.validation) and "train" in splits:
            parts: dict[str, list[Sample | BadSample]] = {"train": []}
            parts |= {name: [] for name in ("heldout", "validation") if getattr(self, name)}
            for sample in splits["train"]:
                parts["train" if isinstance(sample, BadSample) else self._part(sample)].append(sample)
            generators |= {name: self._generate_examples(samples) for name, samples in parts.items()}
        return generators

    def _part(self, sample: Sample) -> str:
        """Split of a sample of the published split "train"."""
        match = self.group.search(sample.key)
        # Without a group, faces of one picture ("picture#number") stay together.
        group = match.group(match.lastindex or 0) if match and match.group(0) else sample.key.partition("#")[0]
        place = int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) / 2**32
        if place < self.heldout:
            return "heldout"
        return "validation" if place < self.heldout + self.validation else "train"

    def _generate_examples(self, samples: Iterable[Sample | BadSample]) -> Iterator[tuple[str, dict]]:
        for number, sample in enumerate(samples):
            try:
                if isinstance(sample, BadSample):
                    raise sample
                content = validate(sample, upright=self.upright)
                yield f"{number:08d}", self._record(sample, content if self.upright else as_stored(content))
            except BadSample as error:
                if self.on_bad == "error":
                    raise
                self.skipped.append(str(error))

    def _record(self, sample: Sample, content: bytes) -> dict:
        mask = np.asarray(np.isfinite(sample.landmarks).all(axis=1))
        landmarks = np.where(mask[:, None], sample.landmarks, 0.0)
        bbox = sample.bbox if sample.bbox is not None else geometry.box_of_points(landmarks, mask)
        visibility = np.ones(len(mask)) if sample.visibility is None else sample.visibility
        flags = [name in sample.subsets for name in self.SUBSETS] or [False]
        params = {"params": np.asarray(sample.params, np.float64)} if self.MODES else {}
        return {
            **params,
            "image": content,
            "key": sample.key,
            "landmarks": landmarks.astype(np.float32),
            "mask": mask.astype(np.uint8),
            "visibility": np.where(mask, visibility, 0.0).astype(np.float32),
            "bbox": np.asarray(bbox, np.float32),
            "subsets": np.array(flags, np.uint8),
        }

    def prepare(self) -> None:
        """Writes the cache if it does not exist yet; prints missing annotation files, notices and skipped samples.

        Raises:
            BadSample: if a sample cannot be used and `on_bad` is "error".
            ValueError: if a split has no usable sample.
        """
        missing = [path for path in self.annotation_files() if not path.exists()]
        if missing:
            names = ", ".join(str(path.relative_to(self.root)) for path in missing)
            print(f"{type(self).__name__}: {self.root} lacks {names}; continuing without them.")
        config = tfds.download.DownloadConfig(register_checksums=False)
        prepared = Path(self.data_dir) / "dataset_info.json"
        try:
            with _quiet():
                self.download_and_prepare(download_config=config)
        except FileExistsError:  # another program has prepared the same data
            if not prepared.exists():
                raise
        except AssertionError:  # TFDS raises it for an empty split
            raise ValueError(
                f"A split of {self.root} has no usable sample: {len(self.skipped)} were skipped"
                f"{'; the first: ' + self.skipped[0] if self.skipped else '; check its files, or change heldout.'}"
            ) from None
        notices = Path(self.data_dir) / "notices.txt"
        if not self.info.splits:
            self.info.read_from_directory(self.data_dir)
        if self.notices:
            notices.write_text("\n".join(self.notices) + "\n")
        for notice in notices.read_text().splitlines() if notices.exists() else []:
            print(f"{type(self).__name__}: {notice}")
        listing = Path(self.data_dir) / "skipped.txt"
        if self.skipped:
            listing.write_text("\n".join(self.skipped) + "\n")
        if listing.exists():
            count = len(listing.read_text().splitlines())
            print(f"{type(self).__name__}: {count} samples skipped, listed in {listing}")


def file_stats(files: Iterable[Path], folder: Path | None = None) -> list[str]:
    """Name, size and time of each file; the name is relative to `folder`, or the file's own."""
    stats = [(path.relative_to(folder) if folder else path.name, path.stat()) for path in files]
    return [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]

"""TFDS builders: data sets as published become ArrayRecord files, prepared once, read at random without TensorFlow.

The pictures' own bytes are stored, so nothing is lost and the cache is as large as the data set. A sample that cannot
be used stops the preparation with its file and line; with `on_bad="skip"` it is left out, counted and listed.
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
from jaxlm.schemes import Scheme, get_scheme
from jaxlm.support.errors import BadSample


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's notices and progress bars, which speak of downloads that there are none of."""
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
    """Base of the builders: a subclass says what its splits are.

    Args:
        root: the data set as published.
        cache: folder of the prepared files.
        scheme: name of the landmark scheme.
        heldout: fraction of the split "train" that becomes the split "heldout", chosen by a hash of its group.
        group: regular expression; its first match in a sample's key is the group that stays together (a person, say).
            The picture where it is empty.
        on_bad: "error" or "skip".
    """

    VERSION = tfds.core.Version("1.0.0")
    # Version of the records that this class makes. Raise it when they change: the user's data is then prepared again.
    # A subclass with a reader of its own has a number of its own, beside those of its bases.
    READER = 2
    SUBSETS: tuple[str, ...] = ()
    # Identity and expression modes of the parameters that the records hold; none where they have no parameters.
    MODES: tuple[int, int] | None = None

    def __init__(
        self,
        root: str | Path,
        cache: str | Path,
        *,
        scheme: str,
        heldout: float = 0.0,
        group: str = "",
        on_bad: str = "error",
    ):
        if on_bad not in ("error", "skip"):
            raise ValueError(f'on_bad must be "error" or "skip", got {on_bad!r}.')
        if not 0 <= heldout < 1:
            raise ValueError(f"heldout must lie in [0, 1), got {heldout}.")
        self.root = Path(root).expanduser()
        self.scheme: Scheme = get_scheme(scheme)
        self.heldout, self.group, self.on_bad = heldout, re.compile(group), on_bad
        self.skipped: list[str] = []
        self.notices: list[str] = []  # of the preparation, printed whenever the data set is opened
        self.check_root()
        identity = [type(self).__name__, scheme, str(heldout), group, on_bad]
        fingerprint = hashlib.sha256("\n".join([*identity, *self.fingerprint()]).encode()).hexdigest()[:16]
        config = tfds.core.BuilderConfig(name=fingerprint, version=self.VERSION)
        with _quiet():
            super().__init__(config=config, data_dir=Path(cache).expanduser(), file_format="array_record")

    # What a subclass provides.

    def published_splits(self) -> dict[str, Iterable[Sample | BadSample]]:
        """The data set's own splits."""
        raise NotImplementedError

    def annotation_files(self) -> list[Path]:
        """Files whose change invalidates the cache."""
        return [self.root]

    def check_root(self) -> None:
        """Raises a ValueError that says what the root must look like."""
        if not self.root.exists():
            raise ValueError(f"{self.root} does not exist: set data.root to the {type(self).__name__} data.")

    # TFDS's interface.

    def fingerprint(self) -> list[str]:
        """What the cache depends on: the readers' versions, and name, size and time of every file of the data set."""
        folder = self.root if self.root.is_dir() else self.root.parent
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        stats = [(path, path.stat()) for path in files]
        listed = [f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats]
        return [str(self.root.resolve()), *self.reader_versions(), *listed]

    @classmethod
    def reader_versions(cls) -> list[str]:
        """Name and `READER` of every class of this builder that has one of its own."""
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
        # Not `dataset_info_from_configs`, which looks for files of TFDS's own beside the module of a subclass.
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        del dl_manager
        splits = self.published_splits()
        generators = {name: self._generate_examples(samples) for name, samples in splits.items()}
        if self.heldout and "train" in splits:
            kept, held = [], []
            for sample in splits["train"]:
                bad = isinstance(sample, BadSample)
                (held if not bad and self._is_held_out(sample) else kept).append(sample)
            generators["train"] = self._generate_examples(kept)
            generators["heldout"] = self._generate_examples(held)
        return generators

    def _is_held_out(self, sample: Sample) -> bool:
        match = self.group.search(sample.key)
        # Without a group, faces of one picture ("picture#number") stay together.
        group = match.group(match.lastindex or 0) if match and match.group(0) else sample.key.partition("#")[0]
        return int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) < self.heldout * 2**32

    def _generate_examples(self, samples: Iterable[Sample | BadSample]) -> Iterator[tuple[str, dict]]:
        for number, sample in enumerate(samples):
            try:
                if isinstance(sample, BadSample):
                    raise sample
                yield f"{number:08d}", self._record(sample, validate(sample))
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
        """Writes the cache where it does not exist yet; prints what is missing or was skipped."""
        missing = [path for path in self.annotation_files() if not path.exists()]
        if missing:
            names = ", ".join(str(path.relative_to(self.root)) for path in missing)
            print(f"{type(self).__name__}: {self.root} lacks {names}; going on with the rest.")
        config = tfds.download.DownloadConfig(register_checksums=False)
        prepared = Path(self.data_dir) / "dataset_info.json"
        try:
            with _quiet():
                self.download_and_prepare(download_config=config)
        except FileExistsError:  # another program has prepared the same data meanwhile
            if not prepared.exists():
                raise
        except AssertionError:  # how TFDS says that a split is empty
            raise ValueError(
                f"A split of {self.root} has no usable sample: {len(self.skipped)} were skipped"
                f"{', ' + self.skipped[0] if self.skipped else ', or heldout is too small a fraction'}."
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

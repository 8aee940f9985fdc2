"""Opens the data sets of an experiment, `config.data.sources`, by name and split; prepares each of them once."""

import dataclasses
from collections.abc import Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxlm.config import Config
from jaxlm.data.builder import FaceBuilder
from jaxlm.data.prepared import note_use
from jaxlm.data.rendered.faces import RenderedFaces
from jaxlm.data.rendered.videos import RenderedVideos
from jaxlm.data.sets.aflw import Aflw, AflwCrops
from jaxlm.data.sets.cofw import Cofw
from jaxlm.data.sets.lsp import Lsp
from jaxlm.data.sets.menpo3d import Menpo3D
from jaxlm.data.sets.own import OwnData
from jaxlm.data.sets.three_hundred_w import ThreeHundredVW, ThreeHundredW
from jaxlm.data.sets.three_hundred_w_lp import Aflw2000, ThreeHundredWLP
from jaxlm.data.sets.wflw import Wflw, WflwV
from jaxlm.data.video_builder import VideoBuilder
from jaxlm.schemes import Scheme
from jaxlm.support import storage
from jaxlm.support.errors import MissingSplit


def with_source(config: Config, builder: str, root: str) -> Config:
    """Copy of a config whose source `builder` is the whole data set of that builder under `root`.

    Raises:
        ValueError: if `builder` is unknown or renders its data.
    """
    choices = [name for name in BUILDERS if not name.startswith("rendered")]
    if builder not in choices:
        raise ValueError(f"--root goes with --data naming a builder: one of {', '.join(choices)}.")
    config = config.copy_and_resolve_references()
    with config.unlocked():
        files = str(Path(root).expanduser().resolve())
        known = config.data.sources.get(builder, ConfigDict())
        # Keeps options of the data set, such as other labels, but not those that hold out a part of it.
        options = known.to_dict() if known.get("builder") == builder else {}
        options = {key: value for key, value in options.items() if key not in ("heldout", "validation", "group")}
        defaults = dict(builder=builder, root=files, train_split="train", weight=0.0)
        config.data.sources[builder] = ConfigDict({**options, **defaults})
    return config


BUILDERS: dict[str, type[FaceBuilder]] = {
    "wflw": Wflw,
    "300w": ThreeHundredW,
    "cofw": Cofw,
    "aflw": Aflw,
    "aflw_crops": AflwCrops,
    "aflw2000": Aflw2000,
    "300w_lp": ThreeHundredWLP,
    "lsp": Lsp,
    "own": OwnData,
    "rendered": RenderedFaces,
    "wflwv": WflwV,
    "300vw": ThreeHundredVW,
    "menpo3d": Menpo3D,
    "rendered_videos": RenderedVideos,
}


@dataclasses.dataclass(frozen=True)
class FaceSource:
    """One split of one data set, read at random.

    Attributes:
        name: name of the data set, for tables.
        records: sequence of the builder's records.
        scheme: scheme of the landmarks.
        subsets: names of the columns of a record's `subsets`.
        split: name of the split.
    """

    name: str
    split: str
    records: Sequence[dict[str, Any]]
    scheme: Scheme
    subsets: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.records)


def _options_of(builder: type[FaceBuilder]) -> set[str]:
    """Names of the keyword options of a builder and its bases, without `scheme`."""
    parameters = [
        p for cls in builder.__mro__ if issubclass(cls, FaceBuilder) for p in signature(cls).parameters.values()
    ]
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"scheme"}


def open_set(config: Config, name: str) -> FaceSource:
    """Opens "source:split", as `config.eval.sets` and the command line write it.

    Without ":split" it opens the split "test" or, if there is none, "train".
    """
    source, _, split = name.partition(":")
    return open_source(config, source, split or None)


def open_source(config: Config, name: str, split: str | None) -> FaceSource:
    """Prepares (once) and opens a split of the data set of stills `config.data.sources[name]`.

    Args:
        config: config of the experiment.
        name: key of `config.data.sources`.
        split: name of the split; None opens "test" or, if there is none, "train".

    Raises:
        ValueError: if the source, its builder, its files or the split do not exist, or it holds videos.
    """
    if holds_videos(config, name):
        raise ValueError(f"{name} holds videos: evaluate it with jaxlm eval, or name a data set of stills.")
    builder: Any = prepare_source(config, name)
    if split is None:
        split = "test" if "test" in builder.info.splits else "train"
    records = builder.as_data_source(split=check_split(builder, name, split))
    return FaceSource(name, split, records, builder.scheme, builder.SUBSETS)


def holds_videos(config: Config, name: str) -> bool:
    """Whether the source `name` is a data set of videos.

    Raises:
        ValueError: if there is no such source or builder.
    """
    return issubclass(_builder_class(config, name), VideoBuilder)


def prepare_source(config: Config, name: str) -> FaceBuilder:
    """Prepared builder of `config.data.sources[name]`.

    Raises:
        ValueError: if the source, its builder or its files do not exist, or it has unknown fields.
    """
    builder_class: Any = _builder_class(config, name)
    source = config.data.sources[name]
    options = {key: source[key] for key in source if key not in ("builder", "root", "train_split", "weight")}
    root = storage.under(config.data.root, source.root)
    known = _options_of(builder_class)
    if set(options) - known:
        raise ValueError(
            f"config.data.sources.{name} has the unknown fields {', '.join(sorted(set(options) - known))}; "
            f"{source.builder} takes {', '.join(sorted(known))}."
        )
    for key in {"labels", "indices", "ict", "images"} & set(options):  # these files lie under data.root as well
        if options[key]:
            options[key] = str(storage.under(config.data.root, options[key]))
    builder = builder_class(root, config.data.cache, scheme=config.scheme, **options)
    builder.prepare()
    chosen = {key: str(value) for key, value in sorted(options.items())}
    note_use(Path(builder.data_dir), builder_class.__name__, root, {"scheme": builder.scheme.name, **chosen})
    return builder


def _builder_class(config: Config, name: str) -> type[FaceBuilder]:
    sources = config.data.sources
    if name not in sources:
        raise ValueError(f"There is no source {name!r} in config.data.sources; choose one of {', '.join(sources)}.")
    if sources[name].builder not in BUILDERS:
        raise ValueError(f"There is no builder {sources[name].builder!r}; choose one of {', '.join(BUILDERS)}.")
    return BUILDERS[sources[name].builder]


def check_split(builder: FaceBuilder, name: str, split: str) -> str:
    """Returns `split`; raises MissingSplit, which names the existing splits, if the builder does not have it."""
    if split not in builder.info.splits:
        raise MissingSplit(f"{name} has no split {split!r}; it has {', '.join(builder.info.splits)}.")
    return split


@dataclasses.dataclass(frozen=True)
class VideoSource:
    """One split of one data set of videos.

    Attributes:
        name: name of the data set, for tables.
        split: name of the split.
        records: sequence of the builder's records.
        scheme: scheme of the landmarks.
    """

    name: str
    split: str
    records: Sequence[dict[str, Any]]
    scheme: Scheme

    def __len__(self) -> int:
        return len(self.records)


def open_videos(config: Config, name: str) -> list[VideoSource]:
    """Opens "source:split", or all splits of "source".

    Raises:
        ValueError: if the source, its files or the split do not exist.
    """
    source, _, split = name.partition(":")
    builder: Any = prepare_source(config, source)
    splits = [check_split(builder, source, split)] if split else list(builder.info.splits)
    return [VideoSource(source, s, builder.as_data_source(split=s), builder.scheme) for s in splits]


def by_length(source: VideoSource, batch_size: int) -> Iterator[list[int]]:
    """Positions of a source's videos in batches of similar length, the longest videos first."""
    order = sorted(range(len(source)), key=lambda index: -len(source.records[index]["bbox"]))
    for first in range(0, len(order), batch_size):
        yield order[first : first + batch_size]

"""The config of an experiment: every key that all systems share, with its meaning and its default.

A config is one `ml_collections.ConfigDict`. The classes here and in `jaxlm/systems/<paper>/settings.py` say which keys
it has: `to_config` makes a ConfigDict of one, and a type checker takes the ConfigDict for an instance of the class. The
files in `configs/` say what an experiment changes.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict


class _TakesConfigDicts(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, ConfigDict) or super().__instancecheck__(instance)


class Block(metaclass=_TakesConfigDicts):
    """Some keys of a config. Functions get a `ConfigDict` in its place, whose methods the type checker finds here."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> Any: ...
        def __setitem__(self, key: str, value: Any) -> None: ...
        def __contains__(self, key: str) -> bool: ...
        def __iter__(self) -> Iterator[str]: ...
        def get(self, key: str, default: Any = None) -> Any: ...
        def update(self, *args: Any, **fields: Any) -> None: ...
        def update_from_flattened_dict(self, fields: Mapping[str, Any]) -> None: ...
        def unlocked(self) -> Any: ...
        def to_dict(self) -> dict[str, Any]: ...
        def to_json(self, **options: Any) -> str: ...
        def copy_and_resolve_references(self) -> Any: ...


@dataclasses.dataclass
class Data(Block):
    """Where the faces come from, and how they are cropped and measured."""

    root: str = "data"  # folder of the data sets
    cache: str = "~/.cache/jaxlm"  # folder of the prepared data
    crop: str = "gt"  # crop protocol, a key of jaxlm.data.crops.PROTOCOLS
    normalizer: str = "inter_ocular"  # length that the NME divides by, see jaxlm.schemes.normalizer
    threads: int = 16  # that crop and augment
    # Name -> data set, see `source`. Training mixes those with a positive weight.
    sources: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Augment(Block):
    """Random changes of the training crops, see `jaxlm.data.augment.Augmentation`. Zero changes nothing."""

    # Means and standard deviations (4 + 4 numbers) of a detector's boxes; empty for the given boxes. `jaxlm
    # detector-boxes` measures them.
    box: tuple[float, ...] = ()
    box_samples: int = 0  # different boxes of a picture; 0 for a new one each time
    label_noise: float = 0.0  # radius of annotation errors, in pixels of a face of 256 pixels
    rotation: float = 0.0  # ± degrees
    scale: float = 0.0  # zoom within 1 ± scale
    translation: float = 0.0  # ± fraction of the crop's side
    flip: float = 0.5  # probability of a mirror image
    blur: float = 0.0  # probability
    noise: float = 0.0  # probability
    occlusion: float = 0.0  # probability
    color: float = 0.0  # strength of brightness, contrast, saturation and channel gain
    grey: float = 0.0  # probability of no colour
    low_resolution: float = 0.0  # probability


@dataclasses.dataclass
class Optimizer(Block):
    """The optimiser, see `jaxlm.systems.optim`."""

    name: str = "adamw"  # adamw, sgd (Nesterov 0.9), momentum (0.9) or rmsprop
    weight_decay: float = 1e-4  # of matrices; biases and norms have none
    clip_norm: float = 1.0  # largest norm of the gradient; 0 for no limit
    ema: float = 0.999  # decay of the parameters' moving average, which predicts; 0 for none


@dataclasses.dataclass
class Optim(Optimizer):
    """The optimiser with one schedule of the learning rate."""

    learning_rate: float = 5e-4
    schedule: str = "cosine"  # constant, cosine (to zero) or steps
    warmup_steps: int = 500  # of a linear warm-up
    drop_at: tuple[float, ...] = (0.6, 0.85)  # of the schedule steps: fractions of the training
    drop: float = 0.1  # factor at each of them


@dataclasses.dataclass
class Train(Block):
    """Length of the training."""

    batch_size: int = 32  # over all devices of all processes
    cpu_devices: int = 1  # that a CPU is split into; with 2, each works on half of the batch
    num_steps: int = 10_000
    log_every: int = 50  # steps
    checkpoint_every: int = 1000  # steps; each with a validation


@dataclasses.dataclass
class Eval(Block):
    """Validation and evaluation."""

    sets: tuple[str, ...] = ()  # source:split; the first says which checkpoint is the best
    batch_size: int = 64
    flip_average: bool = False  # average with the mirrored crop's landmarks
    limit: int = 500  # faces of a set in a validation while training; 0 for all


@dataclasses.dataclass
class Video(Block):
    """Landmarks on videos."""

    crop: str = "ldeq_video"  # crop protocol
    min_iou: float = 0.4  # of successive boxes; less is another face
    max_change: float = 0.45  # of successive crops, 1 − their correlation; more is a scene cut
    batch_size: int = 8  # videos at a time
    chunk: int = 32  # frames in memory at a time
    clips: int = 2  # of each set, written as MP4
    # tracker or tracker+filter: frame (each frame on its own) and, for systems with a state, early, rwr and energy
    methods: tuple[str, ...] = ("frame", "frame+ema:0.8", "frame+one_euro:2,0.1")


@dataclasses.dataclass
class Loss(Block):
    """What the network is trained towards, see `jaxlm.systems.objective` and `jaxlm.losses`."""

    on: str = "landmarks"  # landmarks (through a soft-argmax, in units of the image's side) or heatmaps
    name: str = "mse"  # mse, l1, smooth_l1, wing, adaptive_l1; on heatmaps adaptive_wing, too
    options: dict[str, float] = dataclasses.field(default_factory=dict)  # arguments of that loss


@dataclasses.dataclass
class Heatmap(Block):
    """Targets of a loss on heatmaps, in cells."""

    sigma: float = 1.75  # of the Gaussians
    radius: int = -1  # of their truncation; -1 for none
    boundary_sigma: float = 1.0  # of the boundary channel
    weight_map: str = "dilated"  # none, baseline (H·W + 1) or dilated, Eqs. (4)-(5) of Wang et al.
    weight: float = 10.0  # W of Eq. (4)


@dataclasses.dataclass
class Experiment(Block):
    """What every experiment has; a system's own class adds its blocks."""

    system: str = ""  # a key of jaxlm.systems.SYSTEMS, or a module of one's own
    scheme: str = "faces68"  # landmark scheme, see jaxlm.schemes, or a JSON file, see jaxlm.scheme_files
    seed: int = 0
    image_size: int = 256  # side of the crops in pixels
    data: Data = dataclasses.field(default_factory=Data)
    augment: Augment = dataclasses.field(default_factory=Augment)
    train: Train = dataclasses.field(default_factory=Train)
    eval: Eval = dataclasses.field(default_factory=Eval)
    video: Video = dataclasses.field(default_factory=Video)

    if TYPE_CHECKING:

        @property
        def model(self) -> Any:
            """The network's own block."""
            ...


Config = Experiment


def to_config(experiment: Experiment) -> Any:
    """The experiment as a locked `ConfigDict`, which refuses unknown keys."""
    config = ConfigDict(dataclasses.asdict(experiment))
    config.lock()
    return config


def source(
    builder: str, root: str = "", *, train_split: str = "train", weight: float = 1.0, **options: Any
) -> ConfigDict:
    """An entry of `config.data.sources`.

    Args:
        builder: a key of `jaxlm.data.sources.BUILDERS`.
        root: the data set's folder or file, absolute or below `data.root`.
        train_split: split to train on.
        weight: share in the training mixture; 0 for a data set that is only evaluated on.
        **options: of the builder. Those of every published data set are heldout, validation, group and on_bad.
    """
    common = (
        {} if builder.startswith("rendered") else {"heldout": 0.0, "validation": 0.0, "group": "", "on_bad": "error"}
    )
    return ConfigDict(dict(builder=builder, root=root, train_split=train_split, weight=weight, **{**common, **options}))


def test_source(builder: str, root: str = "", **options: Any) -> ConfigDict:
    """An entry of `config.data.sources` that is only evaluated on, with the split "test"; see `source`."""
    settings = dict(builder=builder, root=root, train_split="test", weight=0.0, on_bad="error")
    return ConfigDict({**settings, **options})


def set_sources(config: Config, **sources: ConfigDict) -> None:
    """Replaces the data sets of a config."""
    with config.unlocked():
        config.data.sources = ConfigDict(sources)  # pyright: ignore[reportAttributeAccessIssue]


def set_real_faces(config: Config, *, three_hundred_w: float, ytf68: float, aflw68: float) -> None:
    """Replaces the data sets by a mixture of real 68-point faces, with these shares.

    `data.root` holds `300w/` (300-W's own layout; LFPW alone will do), `ytf68/` and `aflw68/` (each a `landmarks.csv`
    beside `images/`). 10 % of 300-W is held out by picture, 10 % of `ytf68` by person.
    """
    mixture = {
        "300w": source("300w", "300w", weight=three_hundred_w, heldout=0.1),
        "ytf68": source("own", "ytf68", weight=ytf68, heldout=0.1, group=r"^(.*)_\d+\."),
        "aflw68": source("own", "aflw68", weight=aflw68),
    }
    set_sources(config, **mixture)
    config.eval.sets = ("300w:heldout", "ytf68:heldout")


def set_rendered_faces(config: Config, *, videos: ConfigDict | None = None, **options: Any) -> None:
    """Replaces the data sets by 2,400 rendered faces to train on and 300 others to test on.

    Args:
        config: to change.
        videos: rendered videos to evaluate on, by `source`.
        **options: further ones of the builder, see `jaxlm.data.rendered.faces.RenderedFaces`.
    """
    faces = source("rendered", num_train=2400, num_test=300, size=160, seed=0, **options)
    set_sources(config, rendered=faces, **({"rendered_videos": videos} if videos is not None else {}))
    config.data.root = "."
    config.eval.sets = ("rendered:test",)


def shrink_rendered(config: Config) -> None:
    """48 rendered faces to train on and 16 to test on, for a run of seconds."""
    config.data.sources["rendered"].update(num_train=48, num_test=16)
    if "rendered_videos" in config.data.sources:
        config.data.sources["rendered_videos"].update(num_videos=2, num_frames=8)


def apply_variant(config: Config, variant: str, choices: Mapping[str, Callable[[Any], None]]) -> Any:
    """The config after the change that a variant's name stands for; unchanged for "".

    Raises:
        ValueError: naming the variants that exist.
    """
    if variant and variant not in choices:
        raise ValueError(f"There is no variant {variant!r}; choose one of {', '.join(choices)}.")
    if variant:
        choices[variant](config)
    return config


def find_config_file(name: str) -> str:
    """Path of a config file, with its variant.

    Args:
        name: a path, or the name of one of the package's configs, with or without `.py`, with or without a variant: as
            in `quickstart`, `configs/quickstart.py:smoke`.

    Raises:
        ValueError: naming the configs that exist.
    """
    file, colon, variant = name.partition(":")
    path = Path(file)
    if not path.is_file() and str(path.parent) in (".", "configs"):
        path = config_folder() / f"{path.stem}.py"
    if not path.is_file():
        raise ValueError(f"There is no config {file}; name a file or one of {', '.join(sorted(config_names()))}.")
    return f"{path}{colon}{variant}"


def config_folder() -> Path:
    """The folder of the package's configs: `configs/` of a clone, or the copy inside an installed package."""
    package = Path(__file__).resolve().parent
    return next((f for f in (package / "configs", package.parent / "configs") if f.is_dir()), package / "configs")


def config_names() -> dict[str, str]:
    """Name -> first line of its docstring, of the package's configs."""
    names = {}
    for path in sorted(config_folder().glob("[!_]*.py")):
        names[path.stem] = path.read_text().lstrip("\"' ").partition("\n")[0].strip("\"' ")
    return names


def load_config_file(name: str) -> Any:
    """The config of a file, as `find_config_file` finds it, as in "reinit_wflw:medium".

    Raises:
        ValueError: if there is no such config or variant.
    """
    file, _, variant = find_config_file(name).rpartition(":") if ":" in name else (find_config_file(name), "", "")
    specification = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.get_config(variant)

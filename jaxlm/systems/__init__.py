"""Systems: what one paper adds up to, as a handful of pure functions. `jaxlm.training` knows nothing else of them."""

import importlib
import importlib.metadata
import importlib.util
from types import ModuleType
from typing import Any

from jaxlm.config import Block, Config
from jaxlm.systems.system import (
    OUTPUTS,
    Halves,
    Prediction,
    System,
    TrainState,
    TrainStep,
    initial_state,
    initialize,
)

__all__ = [
    "OUTPUTS",
    "SYSTEMS",
    "Halves",
    "Prediction",
    "System",
    "TrainState",
    "TrainStep",
    "build",
    "completed",
    "continuation",
    "identity",
    "initial_state",
    "initialize",
]

# The module of each system, imported when it is asked for. It holds `build(config) -> System` and may hold
# `identity(config)` and `continuation(config)`, which the functions of these names below describe. A name that a file
# holds is looked up here and among the installed entry points, and never imported by itself: a folder that was
# downloaded must not run code.
SYSTEMS: dict[str, str] = {name: f"jaxlm.systems.{name}.system" for name in ("awing", "ldeq", "reinit", "tddfa")}
ENTRY_POINTS = "jaxlm.systems"  # group, in which an installed package names its modules


def build(config: Config) -> System:
    """The system that `config.system` names: a key of `SYSTEMS`, or an installed entry point.

    Raises:
        ValueError: naming those that exist.
    """
    return _module(config).build(config)


def identity(config: Config) -> dict[str, Any]:
    """Name -> value of everything that two configs of one model have in common."""
    named = getattr(_module(config), "identity", None)
    return named(config) if named else {key: config[key] for key in ("system", "scheme", "model")}


# Fields that a training of any system must keep to be continued to the same bits.
CONTINUED = ("seed", "image_size", "train.batch_size", "data.sources")


def continuation(config: Config) -> tuple[str, ...]:
    """Fields of a config that must stay as they are for a training to be continued to the same bits."""
    named = getattr(_module(config), "continuation", None)
    return CONTINUED + (named(config) if named else ())


# Blocks whose keys are the experiment's own.
_FREE = ("data.sources", "loss.options")


def completed(config: Config) -> Config:
    """A config with exactly the keys of its system; those that it lacks have their defaults.

    A workdir of an earlier version has fewer keys, or some that nothing reads any more. A config of a system without
    `settings.py` beside its `system.py` stays as it is.
    """
    package, _, module = SYSTEMS.get(str(config.get("system")), "").rpartition(".")
    try:
        if module != "system" or importlib.util.find_spec(f"{package}.settings") is None:
            return config
    except ModuleNotFoundError:  # `build` says so
        return config
    whole = importlib.import_module(f"{package}.settings").default_config()
    with whole.unlocked():
        _fill(whole, config, "")
    return whole


def _fill(whole: Config, given: Config, prefix: str) -> None:
    for key in whole:
        if key in given:
            if isinstance(whole[key], Block) and f"{prefix}{key}" not in _FREE:
                _fill(whole[key], given[key], f"{prefix}{key}.")
            else:
                whole[key] = given[key]


def _module(config: Config) -> ModuleType:
    name: str = config.system
    if name not in SYSTEMS:
        for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
            SYSTEMS.setdefault(point.name, point.module)
    if name not in SYSTEMS:
        raise ValueError(
            f"There is no system {name!r}; choose one of {', '.join(SYSTEMS)}. A module of your own is imported after "
            f"jaxlm --system={name} COMMAND, an entry in jaxlm.systems.SYSTEMS, or an entry point {ENTRY_POINTS}."
        )
    try:
        found = importlib.import_module(SYSTEMS[name])
    except ModuleNotFoundError as error:
        raise ValueError(f"The system {name!r} cannot be imported: {error}.") from None
    if not hasattr(found, "build"):
        raise ValueError(f"The system {name!r} is no module with a function build(config).")
    return found

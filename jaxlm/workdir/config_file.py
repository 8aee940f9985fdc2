"""A workdir's `config.json`: written, read, and compared with the config of a command."""

import functools
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxlm.config import Config
from jaxlm.support.files import write_atomically

# What must agree between a workdir and the config that continues or evaluates it.
IDENTITY = ("system", "scheme", "model")


def write_config(workdir: Path, config: Config) -> None:
    """Writes `config.json`, whole or not at all."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(workdir / "config.json", config.to_json(indent=2))


def check_workdir(workdir: Path, config: Config) -> None:
    """Raises a ValueError if a workdir with checkpoints cannot be continued with this config to the same bits."""
    if not ((workdir / "config.json").exists() and (workdir / "checkpoints").is_dir()):
        return
    saved = load_config(workdir)
    check_same_model(saved, config, workdir)
    if not checkpoint_exists(workdir, after=0):
        return  # converted weights: no training to continue
    fields = ["seed", "image_size", "train.batch_size", "data.sources"]
    if "phases" in config:
        fields += ["phases", "train.num_steps"]  # they say where each training step begins and ends
    if "morphable" in config:
        fields += ["loss", "meta", "synthesis", "train.num_steps"]
    for field in fields:
        ours, theirs = (_plain(functools.reduce(getattr, field.split("."), c)) for c in (config, saved))
        if json.loads(json.dumps(ours)) != json.loads(json.dumps(theirs)):
            raise ValueError(
                f"{workdir} was begun with another {field}, so it cannot be continued to the same bits; "
                "choose another workdir or the same value."
            )


def checkpoint_exists(workdir: Path, *, after: int = -1) -> bool:
    """Whether a workdir holds a checkpoint of a step beyond `after`."""
    return any(path.name.isdigit() and int(path.name) > after for path in (workdir / "checkpoints").glob("*"))


def load_config(workdir: str | Path) -> Config:
    """The config of a trained workdir.

    Raises:
        ValueError: if there is none, or it cannot be read.
    """
    path = Path(workdir).expanduser() / "config.json"
    try:
        return config_from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        raise ValueError(f"{workdir} has no config.json: it is not a workdir that train.py wrote.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); restore it or train again.") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be used ({error}); restore it or train again.") from None


def config_from_json(content: dict[str, Any]) -> Config:
    """The config of what its `to_json` wrote, parsed.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(content, dict):
        raise ValueError("it is no config of an experiment")
    content = _with_tuples(content)
    if isinstance(content.get("loss"), str):  # as it was written before there were losses on heatmaps
        content["loss"] = dict(on="landmarks", name=content["loss"], options={})
    return ConfigDict(content)


def _with_tuples(value: Any) -> Any:
    """JSON's lists back to the tuples that configs hold, which the command line can override."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def check_same_model(saved: Config, config: Config, workdir: Path) -> None:
    """Raises a ValueError that names the first field in which two configs are not the same model."""
    # What a morphable model says of landmarks holds for every scheme that is made of its own.
    keys = [key for key in IDENTITY if key != "scheme" or "morphable" not in saved]
    if "morphable" in saved and _face_model(saved) != _face_model(config):
        raise ValueError(
            f"{workdir} was trained with another face model: {_face_model(saved)}, not {_face_model(config)} "
            "(kind, identity and expression modes); choose another workdir or the same config."
        )
    for key in keys:
        ours, theirs = json.loads(json.dumps(_plain(config[key]))), _plain(saved.get(key))
        if ours != theirs:
            fields = [key]
            if isinstance(ours, dict) and isinstance(theirs, dict):
                names = sorted(set(ours) | set(theirs))
                fields = [f"{key}.{name}" for name in names if ours.get(name) != theirs.get(name)]
            raise ValueError(
                f"{workdir} was trained with another model: {', '.join(fields)} differ from its config.json; "
                "choose another workdir or the same config."
            )


def _face_model(config: Config) -> tuple[str, int, int]:
    """What must agree; its file may have moved."""
    settings = config.morphable
    kind = "head" if settings.path == "head" else "file"
    return kind, settings.identity, settings.expression


def _plain(value: Any) -> Any:
    return json.loads(value.to_json()) if isinstance(value, Config) else value

"""A workdir's `config.json`: written, read, and compared with the config of a command."""

import functools
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxlm import systems
from jaxlm.config import Config
from jaxlm.schemes import get_scheme
from jaxlm.support.files import write_atomically


def write_config(workdir: Path, config: Config) -> None:
    """Writes `config.json`, whole or not at all."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(workdir / "config.json", config.to_json(indent=2))


def check_workdir(workdir: Path, config: Config) -> None:
    """Raises a ValueError if a workdir with checkpoints cannot be continued with this config to the same bits."""
    if not ((workdir / "config.json").exists() and checkpoint_exists(workdir)):
        return
    saved, config = load_config(workdir), systems.completed(config)
    check_same_model(saved, config, workdir)
    if not checkpoint_exists(workdir, after=0):
        return  # converted weights: no training to continue
    for field in systems.continuation(config):
        ours, theirs = (_plain(functools.reduce(getattr, field.split("."), whole)) for whole in (config, saved))
        if ours != theirs:
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
        raise ValueError(f"{workdir} has no config.json: it is not a workdir of jaxlm train.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); restore it or train again.") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be used ({error}); restore it or train again.") from None


def config_from_json(content: dict[str, Any]) -> Config:
    """The config of a parsed `config.json`, with the defaults of the keys that it lacks.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(content, dict):
        raise ValueError("it is no config of an experiment")
    missing = [key for key in ("system", "scheme", "model", "data", "eval", "image_size") if key not in content]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    scheme = content["scheme"]
    if not isinstance(scheme, str) or scheme.endswith(".json"):  # the text of one is kept, not its path
        raise ValueError(f"its scheme is {scheme!r}, not the name or the text of one")
    get_scheme(scheme)
    content = _with_tuples(content)
    if isinstance(content.get("loss"), str):  # as it was written before there were losses on heatmaps
        content["loss"] = dict(on="landmarks", name=content["loss"], options={})
    if "video" not in content and "crop" in content["data"]:  # as it was written before there were videos
        content["video"] = {"crop": content["data"]["crop"]}
    return systems.completed(ConfigDict(content))  # pyright: ignore[reportArgumentType]


def _with_tuples(value: Any) -> Any:
    """JSON's lists back to the tuples that configs hold, which the command line can override."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def check_same_model(saved: Config, config: Config, workdir: Path) -> None:
    """Raises a ValueError that names the fields in which two configs are not the same model, see `systems.identity`."""
    if saved.system != config.system:
        different = ["system"]
    else:
        saved, config = systems.completed(saved), systems.completed(config)
        ours, theirs = (_plain(systems.identity(whole)) for whole in (config, saved))
        different = []
        for key in ours:
            if isinstance(ours[key], dict):
                names = sorted(set(ours[key]) | set(theirs[key]))
                different += [f"{key}.{name}" for name in names if ours[key].get(name) != theirs[key].get(name)]
            elif ours[key] != theirs[key]:
                different.append(key)
    if different:
        raise ValueError(
            f"{workdir} was trained with another model: {', '.join(different)} differ from its config.json; "
            "choose another workdir or the same config."
        )


def _plain(value: Any) -> Any:
    """The value as JSON holds it."""
    return json.loads(json.dumps(value, default=lambda block: block.to_dict()))

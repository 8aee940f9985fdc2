"""Checkpoints of a run: Orbax, asynchronous and atomic, the last one and the best one kept, the config beside them.

A workdir holds `config.json`, `checkpoints/<step>/` and what training and evaluation write.
"""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as policies

from jaxlm.config import Config
from jaxlm.support.files import write_atomically

# What must agree between a workdir and the config that continues or evaluates it.
IDENTITY = ("system", "scheme", "model")


class Checkpoints:
    """Saves and restores (state, iterator state) pairs; `metric` is the key of the metrics that "best" minimises."""

    def __init__(self, workdir: str | Path, *, read_only: bool = False, metric: str = "nme"):
        self.workdir = Path(workdir).expanduser().resolve()
        self._folder, self._read_only = self.workdir / "checkpoints", read_only
        if read_only and not self._folder.is_dir():
            raise ValueError(f"{self.workdir} has no checkpoints: train there first, or name another workdir.")
        self._metric = metric
        best = policies.BestN(get_metric_fn=self._score, reverse=True, n=1)
        keep = policies.AnyPreservationPolicy([policies.LatestN(1), best])
        # best_fn makes Orbax write the metrics; what is kept is the policy's choice.
        options = ocp.CheckpointManagerOptions(
            best_fn=self._score,
            best_mode="min",
            preservation_policy=None if read_only else keep,
            read_only=read_only,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "iterator": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self._folder, item_handlers=handlers, options=options)

    @property
    def steps(self) -> list[int]:
        """The complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    @property
    def last_step(self) -> int | None:
        """The newest complete checkpoint, None where there is none."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The checkpoint with the lowest metric; the newest one where none has a metric."""
        scores = [(self._score(self._manager.metrics(step)), step) for step in self.steps]
        measured = [(score, step) for score, step in scores if np.isfinite(score)]
        return min(measured)[1] if measured else self.last_step

    def _score(self, metrics: dict[str, float] | None) -> float:
        value = (metrics or {}).get(self._metric, np.inf)
        return np.inf if np.isnan(value) else float(value)

    def save(self, step: int, state: Any, iterator: dict[str, Any], metrics: dict[str, float]) -> None:
        """Starts writing; the checkpoint exists once everything of it is on disk."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), iterator=ocp.args.JsonSave(iterator))
        self._manager.save(step, args=args, metrics={key: float(value) for key, value in metrics.items()})

    def restore(self, step: int, state: Any) -> tuple[Any, dict[str, Any]]:
        """State like `state` (arrays or shapes, with their shardings) and the iterator's state.

        Raises:
            ValueError: if the checkpoint's arrays are not those of `state`.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), iterator=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=args)
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise ValueError(
                f"{self.workdir}/checkpoints/{step} is not a checkpoint of this model ({reason}); "
                "use the config that it was trained with."
            ) from None
        return restored["state"], restored["iterator"]

    def wait(self) -> None:
        """Blocks until what was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for what is being written and releases the folder; what could not be finished is removed."""
        try:
            self._manager.close()
        finally:
            if not self._read_only and jax.process_index() == 0:
                for unfinished in self._folder.glob("*.orbax-checkpoint-tmp"):
                    shutil.rmtree(unfinished, ignore_errors=True)


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

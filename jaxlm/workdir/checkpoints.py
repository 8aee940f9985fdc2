"""Checkpoints of a training, written by Orbax asynchronously and atomically; the last two and the best one are kept.

A workdir holds `config.json`, `checkpoints/<step>/` and the other files that training and evaluation write.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from jaxlm.support.files import write_atomically


class DamagedCheckpoint(ValueError):
    """Files of a checkpoint are missing or cannot be read."""


class Checkpoints:
    """Saves and restores training states together with the states of the data iterator.

    Args:
        workdir: folder of the training.
        read_only: whether checkpoints are only restored.
        metric: key of the metric whose lowest value makes a checkpoint the best one.

    Raises:
        ValueError: if it is read-only and the workdir has no checkpoints.
    """

    def __init__(self, workdir: str | Path, *, read_only: bool = False, metric: str = "nme"):
        self.workdir = Path(workdir).expanduser().resolve()
        self._folder, self._read_only = self.workdir / "checkpoints", read_only
        if read_only and not self._folder.is_dir():
            raise ValueError(f"{self.workdir} has no checkpoints: train there first, or name another workdir.")
        self._metric = metric
        if not read_only and jax.process_index() == 0:
            _drop_damaged_metrics(self._folder)
        best = policies.BestN(get_metric_fn=self._score, reverse=True, n=1)
        keep = policies.AnyPreservationPolicy([policies.LatestN(2), best])
        # best_fn makes Orbax write the metrics; the policy decides which checkpoints are kept.
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
        """Steps of the complete checkpoints, the oldest first."""
        return sorted(self._manager.all_steps())

    @property
    def last_step(self) -> int | None:
        """Step of the newest complete checkpoint; None if there is none."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint with the lowest metric; of the newest one if none has a metric."""
        try:
            scores = [(self._score(self._manager.metrics(step)), step) for step in self.steps]
        except ValueError as error:
            raise DamagedCheckpoint(
                f"The metrics of a checkpoint in {self._folder} are damaged ({error}), so no best one is known."
            ) from None
        measured = [(score, step) for score, step in scores if np.isfinite(score)]
        return min(measured)[1] if measured else self.last_step

    def _score(self, metrics: dict[str, float] | None) -> float:
        value = (metrics or {}).get(self._metric, np.inf)
        return np.inf if np.isnan(value) else float(value)

    def save(self, step: int, state: Any, iterator: dict[str, Any], metrics: dict[str, float]) -> None:
        """Starts writing a checkpoint, which exists only once all of it is on disk."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), iterator=ocp.args.JsonSave(iterator))
        self._manager.save(step, args=args, metrics={key: float(value) for key, value in metrics.items()})

    def restore(self, step: int, state: Any) -> tuple[Any, dict[str, Any]]:
        """Training state and iterator's state of a checkpoint.

        Args:
            step: step of the checkpoint.
            state: arrays or shapes like those of the checkpoint, with the shardings of the result.

        Raises:
            DamagedCheckpoint: if files are missing or cannot be read.
            ValueError: if the checkpoint's arrays are not like those of `state`.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), iterator=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=args)
        except (MemoryError, PermissionError):
            raise
        except Exception as error:  # Orbax and TensorStore have no exception type of their own for damaged files
            place, reason = self._folder / str(step), (str(error).strip().splitlines() or [repr(error)])[0][:200]
            held = self._arrays(step)
            if held is not None and held != _described(abstract):
                raise ValueError(
                    f"{place} is not a checkpoint of this model ({reason}); use the config that it was trained with."
                ) from None
            raise DamagedCheckpoint(f"{place} is damaged ({reason}).") from None
        return restored["state"], restored["iterator"]

    def restore_last(self, state: Any) -> tuple[int, Any, dict[str, Any]]:
        """Step, training state and iterator's state of the newest checkpoint that can be read; names those that cannot.

        Raises:
            DamagedCheckpoint: if none can be read.
            ValueError: as `restore`.
        """
        damaged = []
        if jax.process_count() > 1:  # which would have to agree on a step
            step = self.steps[-1]
            return step, *self.restore(step, state)
        for step in reversed(self.steps):
            try:
                found = step, *self.restore(step, state)
            except DamagedCheckpoint as error:
                damaged.append(error)
                continue
            for error in damaged:
                print(f"{error} It is moved to {self.workdir}/damaged, and the training goes on from step {step}.")
            self._set_aside([other for other in self.steps if other > step])
            return found
        raise damaged[0]

    def _set_aside(self, steps: list[int]) -> None:
        """Moves checkpoints to the folder `damaged`, so that these steps can be saved again."""
        for step in steps:
            aside = self.workdir / "damaged" / str(step)
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            shutil.move(self._folder / str(step), aside)
        if steps:
            self._manager.reload()

    def _arrays(self, step: int) -> list[str] | None:
        """Names, shapes and types of a checkpoint's arrays; None if the checkpoint does not say."""
        try:
            return _described(self._manager.item_metadata(step)["state"].tree)
        except Exception:  # damaged as well
            return None

    def wait(self) -> None:
        """Blocks until all saved checkpoints are on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for running writes, releases the folder, and removes checkpoints that could not be finished."""
        try:
            self._manager.close()
        finally:
            if not self._read_only and jax.process_index() == 0:
                for unfinished in self._folder.glob("*.orbax-checkpoint-tmp"):
                    shutil.rmtree(unfinished, ignore_errors=True)


def _described(tree: Any) -> list[str]:
    """Name, shape and type of every array of a tree, sorted."""

    def name(key: Any) -> str:
        return str(next(getattr(key, kind) for kind in ("name", "key", "idx") if hasattr(key, kind)))

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return sorted(f"{'.'.join(map(name, path))} {tuple(leaf.shape)} {leaf.dtype}" for path, leaf in leaves)


def _drop_damaged_metrics(folder: Path) -> None:
    """Empties the metrics of checkpoints that cannot be read, which would stop all others from being listed."""
    for path in folder.glob("*/metrics/metrics"):
        try:
            readable = isinstance(json.loads(path.read_text()), dict)
        except ValueError:
            readable = False
        if not readable:
            print(f"{path} is damaged: this checkpoint does not count as the best one.")
            write_atomically(path, "{}")

"""Checkpoints of a run: Orbax, asynchronous and atomic, the last one and the best one kept, the config beside them.

A workdir holds `config.json`, `checkpoints/<step>/` and what training and evaluation write.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies


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

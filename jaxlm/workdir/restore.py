"""Averaged parameters and running statistics of a checkpoint."""

from pathlib import Path
from typing import Any

import jax

from jaxlm import systems
from jaxlm.config import Config


def restore_variables(config: Config, workdir: str | Path, step: int | str | None = None) -> tuple[dict[str, Any], int]:
    """Averaged parameters and running statistics of a checkpoint, and its step.

    Args:
        config: config of the workdir.
        workdir: folder of the training.
        step: a number, "best" (by the first validation set) or "last"; the last one where it is None.

    Raises:
        ValueError: if there is no such checkpoint, or it is one of another model.
    """
    from jaxlm.workdir import checkpoints  # what reads no checkpoint starts faster without Orbax

    saved = checkpoints.Checkpoints(workdir, read_only=True)
    try:
        if step in (None, "last"):
            chosen = saved.last_step
        elif step == "best":
            chosen = saved.best_step
        else:
            chosen = int(step) if str(step).isdigit() else None
        if chosen is None or chosen not in saved.steps:
            known = ", ".join(map(str, saved.steps)) or "none"
            raise ValueError(
                f"{workdir} has no checkpoint {step or 'at all'}: it has {known}; name one of them, last or best."
            )
        try:
            state, _ = saved.restore(chosen, abstract_state(config))
        except checkpoints.DamagedCheckpoint as error:
            others = ", ".join(str(other) for other in saved.steps if other != chosen) or "no other"
            raise ValueError(f"{error} There are {others}: name one with --step.") from None
    finally:
        saved.close()
    return state.variables, chosen


def abstract_state(config: Config) -> systems.TrainState:
    template = jax.eval_shape(systems.build(config).init, jax.random.key(0))
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), template)

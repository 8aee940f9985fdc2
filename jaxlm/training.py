"""The training loop of every system: data-parallel, interruptible, resumable to the bit.

The loop knows a system by its pure functions alone (`jaxlm.systems.System`). The batch is split over all devices of
all processes by `jax.sharding`, the state is replicated; the compiler inserts the reductions.
"""

import contextlib
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxlm import metrics, systems
from jaxlm.config import Config
from jaxlm.data import sources
from jaxlm.data.batches import frames_of_a_still, train_batches, training_labels
from jaxlm.evaluation import stills
from jaxlm.schemes import self_contained
from jaxlm.support import errors
from jaxlm.support.errors import NonFiniteError
from jaxlm.support.progress import Stopwatch, progress
from jaxlm.support.signals import Signals, Stopped
from jaxlm.workdir.checkpoints import Checkpoints
from jaxlm.workdir.config_file import check_workdir, write_config
from jaxlm.workdir.lock import locked
from jaxlm.workdir.metric_log import MetricLog


def data_mesh() -> Mesh:
    """All devices of all processes along one axis, "data"."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch as global arrays, split over `mesh`."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The same values on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def make_train_step(train_step: systems.TrainStep) -> Any:
    """The jitted step, (state, batch, rng) -> (state, logs); the state's memory is reused."""
    return jax.jit(train_step, donate_argnums=0)


class _Steps:
    """The jitted step of each batch, by `System.schedule`; each different step of a phase is compiled once."""

    def __init__(self, system: systems.System):
        self._schedule = system.schedule or (lambda number: ("", system.train_step))
        self._phase, self._compiled = "", dict[systems.TrainStep, Any]()

    def __call__(self, number: int) -> tuple[str, Any]:
        """Name of the phase and jitted step of a batch, counted from 1."""
        name, step = self._schedule(number)
        if name != self._phase:
            self._phase, self._compiled = name, {}
        if step not in self._compiled:
            self._compiled[step] = make_train_step(step)
        return name, self._compiled[step]


def train(config: Config, workdir: str | Path) -> dict[str, float]:
    """Trains `config` in `workdir`, continuing from its last checkpoint, and returns the last validation metrics.

    Raises:
        ValueError: for a config, data set or workdir that does not fit.
        NonFiniteError: naming the step and the last good checkpoint.
        Stopped: after SIGTERM or SIGINT, when the step is finished and saved.
    """
    watch, workdir = Stopwatch(), Path(workdir).expanduser()
    config.scheme = self_contained(config.scheme)
    system = systems.build(config)
    mesh = system.mesh() if system.mesh else data_mesh()
    _check(config, mesh)
    check_workdir(workdir, config)
    with locked(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
        return _train(config, workdir, system, mesh, watch)


def _train(config: Config, workdir: Path, system: systems.System, mesh: Mesh, watch: Stopwatch) -> dict[str, float]:
    is_main = jax.process_index() == 0
    batches, validation = _open_data(config)
    watch.lap("data")

    rng = jax.random.key(config.seed)
    state = replicate(systems.initialize(system, rng), mesh)
    checkpoints = Checkpoints(workdir)
    start, saved = 0, checkpoints.last_step
    if saved is None and system.fit:
        state = replicate(system.fit(jax.device_get(state), training_labels(config)), mesh)
    if saved is not None:
        start, state, iterator_state = checkpoints.restore_last(state)
        saved = start
        if iterator_state:  # converted weights have none
            batches.set_state(iterator_state)
        if is_main:
            print(f"Resumed at step {start} of {config.train.num_steps} from {workdir}/checkpoints/{start}.")
    if is_main:
        write_config(workdir, config)

    log = MetricLog(workdir, start) if is_main else None
    steps, phase, metrics = _Steps(system), "", {}
    predict = jax.jit(system.predict)
    bar = progress(total=config.train.num_steps, initial=start, unit="step", disable=not is_main)
    pending: tuple[int, dict[str, jax.Array]] | None = None
    window, signals, watching = _Window(config.train.batch_size), Signals(), contextlib.ExitStack()
    watch.lap("first state")
    try:
        for step in range(start + 1, config.train.num_steps + 1):
            batch = shard_batch(next(batches), mesh)
            name, take_step = steps(step)
            if name != phase and log:
                bar.write(f"step {step}: {name}")
            watch.lap("training")
            state, logs = take_step(state, batch, jax.random.fold_in(rng, step))
            if name != phase or step == start + 1:
                watch.lap("compilation")
            phase = name
            # The logs of the step before are read while the device works on this one.
            _collect(pending, window, checkpoints, system.check)
            pending = (step, logs)
            bar.update()
            if step % config.train.log_every == 0 or step == config.train.num_steps:
                _collect(pending, window, checkpoints, system.check)
                pending = None
                values = window.summary()
                bar.set_postfix_str(_describe(values), refresh=False)
                if log:
                    log.write(step, "train", values)
            if step % config.train.checkpoint_every == 0 or step == config.train.num_steps:
                _collect(pending, window, checkpoints, system.check)
                pending = None
                watch.lap("training")
                metrics = _validate(predict, state, validation, config)
                watch.lap("validation")
                if log:
                    bar.write(f"step {step}: " + ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))
                    log.write(step, "eval", metrics)
                checkpoints.save(step, state, batches.get_state(), metrics)
                saved = step
                window.restart_clock()
            if step == start + 1 and jax.process_count() == 1:
                watching.enter_context(signals.watched())  # before, there is nothing to save
            if step % system.round == 0 and step < config.train.num_steps and _asked_to_stop(signals, step):
                _collect(pending, window, checkpoints, system.check)
                if saved != step:
                    checkpoints.save(step, state, batches.get_state(), {})
                checkpoints.wait()
                name = signal.Signals(signals.noted or signal.SIGTERM).name
                raise Stopped(
                    f"Stopped by {name} at step {step}, which is saved; the same command goes on from there.",
                    signals.noted or signal.SIGTERM,
                )
    finally:
        bar.close()
        if log:
            log.close()
        checkpoints.close()
        watching.close()
    watch.lap("training")
    if is_main:
        print(f"time: {watch}")
    if signals.noted is not None:  # in the last step, or while it was saved
        raise Stopped("The training is finished and saved; what would follow is left out.", signals.noted)
    return metrics


def _asked_to_stop(signals: Signals, step: int) -> bool:
    """Whether the training must end after this step; JAX makes the processes of one training agree on the step."""
    if jax.process_count() > 1:
        return bool(multihost_utils.reached_preemption_sync_point(step))
    return signals.noted is not None


def _open_data(config: Config):
    """Training iterator and validation sets; where processes share a cache, the first one prepares it."""
    process = dict(process_index=jax.process_index(), process_count=jax.process_count())
    if jax.process_index() > 0:
        multihost_utils.sync_global_devices("data prepared")
    batches = iter(train_batches(config, **process))
    validation = []
    for name in config.eval.sets:
        try:
            validation.append(sources.open_set(config, name))
        except errors.MissingSplit as error:
            print(f"No validation on {name}: {error}")
    if jax.process_index() == 0:
        multihost_utils.sync_global_devices("data prepared")
    return batches, validation


def _check(config: Config, mesh: Mesh) -> None:
    devices = mesh.shape["data"]
    if (config.train.batch_size // frames_of_a_still(config)) % devices:
        raise ValueError(
            f"train.batch_size = {config.train.batch_size} is not divisible by the {devices} devices; choose another, "
            "or on a CPU --config.train.cpu_devices=1."
        )
    if config.train.num_steps < 1 or config.train.checkpoint_every < 1 or config.train.log_every < 1:
        raise ValueError("train.num_steps, train.checkpoint_every and train.log_every must be at least 1.")


def _validate(predict, state, validation, config: Config) -> dict[str, float]:
    """NME in percent of each validation set; "nme" is the first one's, by which the best checkpoint is chosen."""
    measured = {}
    for source in validation:
        result = stills.evaluate(predict, state.variables, source, config, limit=config.eval.limit)
        measured[f"{source.name}_nme"] = 100 * result.nme_of()
    return {"nme": next(iter(measured.values())), **measured} if measured else {}


class _Window:
    """Means of the logs since the last summary, and the speed."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.values: list[dict[str, float]] = []
        self.restart_clock()

    def restart_clock(self) -> None:
        self.time, self.counted = time.perf_counter(), len(self.values)

    def summary(self) -> dict[str, float]:
        now = time.perf_counter()
        keys = dict.fromkeys(key for values in self.values for key in values)
        means = {key: metrics.mean(np.array([v[key] for v in self.values if key in v])) for key in keys}
        means["nme"] = 100 * means["nme"]
        steps = len(self.values) - self.counted
        means["samples_per_second"] = self.batch_size * steps / max(now - self.time, 1e-9)
        self.values = []
        self.restart_clock()
        return means


def _collect(pending, window: _Window, checkpoints: Checkpoints, check) -> None:
    if pending is None:
        return
    step, logs = pending
    values = {key: float(value) for key, value in jax.device_get(logs).items()}
    grad_norm = values.get("grad_norm", 0.0)  # a test has none
    failure = check(values) if check else None
    if not (np.isfinite(values["loss"]) and np.isfinite(grad_norm)):
        failure = (
            f"the loss is {values['loss']:g} and the gradient's norm {grad_norm:g}; lower optim.learning_rate or "
            "optim.clip_norm"
        )
    if failure:
        checkpoints.wait()
        good = checkpoints.last_step
        last = f"The last good checkpoint is step {good}." if good else "There is no checkpoint yet."
        raise NonFiniteError(f"Step {step}: {failure}. {last}")
    window.values.append(values)


def _describe(values: dict[str, float]) -> str:
    parts = [f"loss {values['loss']:.4g}", f"NME {values['nme']:.2f} %"]
    parts.append(f"{values['samples_per_second']:.0f} img/s")
    if "solver_steps" in values:
        parts.append(f"{values['solver_steps']:.1f} solver steps")
    return ", ".join(parts)

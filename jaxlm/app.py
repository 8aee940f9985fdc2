"""What train.py and eval.py share: one sentence for a user's mistake, devices, and configs of workdirs."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from jaxlm import checkpoints, evaluation, systems
from jaxlm.data import pipeline
from jaxlm.data.readers import BadSample
from jaxlm.training import NonFiniteError


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Ends the program with one sentence and exit status 2 where the user can do something about it."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit("Interrupted; the same command continues from the last checkpoint.")
    except (BadSample, ValueError, NonFiniteError) as error:
        if os.environ.get("JAXLM_TRACEBACK"):
            raise
        _fail(str(error))
    except OSError as error:
        if os.environ.get("JAXLM_TRACEBACK"):
            raise
        if error.errno == errno.ENOSPC:
            _fail(f"The disk is full ({error.filename or 'while writing'}); free some space and run the command again.")
        _fail(f"{error.filename or 'A file'}: {error.strerror or error}.")


def _fail(message: str) -> None:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(2)


def quiet_logs() -> None:
    """Only warnings from the libraries; the progress bar and the tables are ours."""
    logging.set_verbosity(logging.WARNING)


def start_devices(distributed: bool) -> None:
    """Joins the other hosts where asked for; JAX finds them from the environment of the cluster."""
    if distributed:
        jax.distributed.initialize()


def workdir_config(given: ConfigDict | None, overrides: dict[str, Any], workdir: Path) -> ConfigDict:
    """The config of a trained workdir with the command line's overrides.

    Args:
        given: of --config, or None; only checked against the workdir's model.
        overrides: field -> value as set on the command line.
        workdir: with a config.json.

    Raises:
        ValueError: if `given` is another model, or a field does not exist.
    """
    config = checkpoints.load_config(workdir)
    if given is not None:
        checkpoints.check_same_model(config, given, workdir)
    for field, value in overrides.items():
        try:
            config.update_from_flattened_dict({field: value})
        except (KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"config.{field} cannot be set to {value!r}: {error}") from None
    return config


def evaluate_workdir(
    config: ConfigDict,
    workdir: str | Path,
    *,
    data: str | None = None,
    root: str | None = None,
    split: str | None = None,
    step: int | None = None,
) -> list[Path]:
    """Evaluates a checkpoint on `data`, or on every set of `config.eval.sets`; prints tables, writes `<workdir>/eval/`.

    Args:
        config: of the workdir.
        workdir: with checkpoints.
        data: a key of `config.data.sources`, or a builder's name together with `root`.
        root: the files of that data set.
        split: of it; "test" or else "train" where it is None.
        step: of the checkpoint; the best one where it is None.

    Returns:
        The JSON files.

    Raises:
        ValueError: for a data set, split or checkpoint that does not exist.
    """
    folder = Path(workdir).expanduser()
    system = systems.build(config)
    saved = checkpoints.Checkpoints(folder, read_only=True)
    step = saved.best_step if step is None else step
    if step is None:
        raise ValueError(f"{folder}/checkpoints is empty: train there first.")
    template = jax.eval_shape(system.init, jax.random.key(0))
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), template)
    state, _ = saved.restore(step, template)
    saved.close()

    sets = [(item.source, item.split) for item in config.eval.sets]
    if data is not None:
        sets = [(data, split)]
        if root is not None:
            config = _with_source(config, data, root)
    predict, written = jax.jit(system.predict), []
    for name, part in sets:
        source = pipeline.open_source(config, name, part)
        result = evaluation.evaluate(predict, state.variables, source, config, progress=True)
        label = f"{name}_{source.split}"
        print(f"\n{evaluation.table(result, config, f'{label} at step {step}')}")
        path = evaluation.write_report(folder / "eval", label, result, source, config, step)
        print(f"written: {path}, {label}_ced.png, {label}_faces.png")
        written.append(path)
    return written


def _with_source(config: ConfigDict, builder: str, root: str) -> ConfigDict:
    """A config whose source `builder` is that builder's data under `root`, all of it."""
    if builder not in pipeline.BUILDERS:
        raise ValueError(f"--root goes with --data naming a builder: one of {', '.join(pipeline.BUILDERS)}.")
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.root = str(Path(root).expanduser().resolve())
        config.data.sources[builder] = ConfigDict(dict(builder=builder, root="", train_split="train", weight=0.0))
    return config

"""What train.py and eval.py share: one sentence for a user's mistake, devices, and configs of workdirs."""

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, logging

from jaxlm.support.errors import BadSample


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Ends the program with one sentence and exit status 2 where the user can do something about it."""
    # Writers in threads of their own and at exit meet a full disk, too; the main thread's sentence says it once.
    threading.excepthook = _unless_os_error(threading.excepthook)
    sys.unraisablehook = _unless_os_error(sys.unraisablehook)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit("Interrupted; what was complete is kept, and a training continues from its last checkpoint.")
    except (BadSample, ValueError, FloatingPointError) as error:
        if os.environ.get("JAXLM_TRACEBACK"):
            raise
        if "RESOURCE_EXHAUSTED: Error writing" in str(error):  # how TensorStore says it
            _fail("The disk is full (while writing a checkpoint); free some space and run the command again.")
        _fail(str(error))
    except OSError as error:
        if os.environ.get("JAXLM_TRACEBACK"):
            raise
        if error.errno == errno.ENOSPC:
            _fail(f"The disk is full ({error.filename or 'while writing'}); free some space and run the command again.")
        _fail(f"{error.filename or 'A file'}: {error.strerror or error}.")


def _unless_os_error(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda details: None if isinstance(details.exc_value, OSError) else hook(details)


def _fail(message: str) -> NoReturn:
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(2)


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, for `app.run(flags_parser=)`, with one sentence for a config field that does not exist."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = " ".join(str(error.args[0] if error.args else error).split())
        _fail(f"The command line does not fit the config: {message}")


def quiet_logs() -> None:
    """Nothing from the libraries: what fails is raised as well, and ends in a sentence of ours."""
    logging.set_verbosity(logging.FATAL)


def start_devices(
    distributed: bool, coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes where asked for.

    Args:
        distributed: whether there are others. Without the rest, JAX asks the cluster's environment for it.
        coordinator: host:port of process 0.
        num_processes: of them all.
        process_id: of this one.
    """
    if distributed:
        jax.distributed.initialize(coordinator, num_processes, process_id)


def make_folder(folder: Path) -> Path:
    """A folder that can be written to.

    Raises:
        ValueError: if it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.partial"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"The folder {folder} cannot be written to ({error.strerror}); choose another --out."
        ) from None
    return folder

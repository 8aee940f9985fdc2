"""The frame of a program: a user's mistake ends in one sentence, libraries are silent, devices are joined."""

import contextlib
import errno
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import absl.logging

from jaxlm.support.errors import BadSample
from jaxlm.support.signals import Stopped


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Ends the program with one sentence and exit status 2 where the user can correct the cause.

    A training that a signal has stopped ends with `jaxlm.support.signals.AGAIN`, or 130 after Ctrl-C.

    The environment variable JAXLM_TRACEBACK asks for the traceback instead.
    """
    # Writers in threads of their own and at exit meet a full disk, too; the main thread's sentence says it once.
    hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook, sys.unraisablehook = map(_unless_os_error, hooks)
    try:
        yield
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        sys.exit("Interrupted; what was complete is kept, and a training continues from its last checkpoint.")
    except (BadSample, ValueError, FloatingPointError) as error:
        if os.environ.get("JAXLM_TRACEBACK"):
            raise
        if "RESOURCE_EXHAUSTED: Error writing" in str(error):  # how TensorStore says it
            _fail("The disk is full (while writing a checkpoint); free some space and run the command again.")
        _fail(str(error))
    except BrokenPipeError:  # of `jaxlm … | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
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


def quiet_logs() -> None:
    """Silences the libraries' logs: what fails is raised as well, and ends in one sentence."""
    logging.disable(logging.CRITICAL)
    absl.logging.set_verbosity(absl.logging.FATAL)


def keep_compiled_programs() -> None:
    """Keeps compiled programs in `~/.cache/jaxlm/compiled` for the next process, up to a gigabyte.

    Nothing changes where the environment already says which folder JAX uses, or that it uses none.
    """
    import jax

    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is None and settings.jax_enable_compilation_cache:
        with contextlib.suppress(ValueError):  # a home that cannot be written to
            settings.update("jax_compilation_cache_dir", str(make_folder("~/.cache/jaxlm/compiled")))
            settings.update("jax_compilation_cache_max_size", 2**30)
            settings.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def join_processes(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes of a distributed training. JAX asks the cluster's environment for what is None.

    Args:
        coordinator: host:port of process 0.
        num_processes: number of all processes.
        process_id: number of this process.
    """
    import jax

    jax.distributed.initialize(coordinator, num_processes, process_id)


def split_cpu(devices: int) -> None:
    """Makes JAX see the CPU as so many devices; has no effect after JAX has been used, or on a GPU or TPU.

    Raises:
        ValueError: for less than one device.
    """
    import jax

    if devices < 1:
        raise ValueError(f"train.cpu_devices must be at least 1, got {devices}.")
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # JAX has been used
        jax.config.update("jax_num_cpu_devices", devices)


def make_folder(folder: str | Path, option: str = "--out") -> Path:
    """Path of a folder, which is made where it does not exist and can be written to.

    Raises:
        ValueError: if it cannot.
    """
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.partial"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"The folder {folder} cannot be written to ({error.strerror}); choose another {option}."
        ) from None
    return folder


def split_commas(values: Sequence[str]) -> list[str]:
    """The values of an option that may be given with spaces or with commas between them."""
    return [part for value in values for part in value.split(",") if part]


def check_names(paths: Sequence[Path], kind: str) -> None:
    """Raises a ValueError if there is no path, or two would write the same files."""
    if not paths:
        raise ValueError(f"Name at least one {kind}.")
    if len({path.stem for path in paths}) < len(paths):
        raise ValueError(f"Two {kind}s of one name would write the same files; give them one by one.")

"""One training at a time in a workdir."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from jaxlm.support.files import write_atomically
from jaxlm.support.program import make_folder

LOCK, HOLDER = ".lock", ".lock.json"


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Context in which no other process trains in the workdir.

    The lock is the operating system's, which releases it when a process ends in whatever way: a lock file that was
    left behind does not stop anyone. `.lock.json` says who holds it.

    Raises:
        ValueError: if another training holds it, saying which.
    """
    lock = FileLock(make_folder(workdir, "--workdir") / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{workdir} is in use: {_holder(workdir / HOLDER)} trains there. Wait for it, or choose another --workdir."
        ) from None
    try:
        holder = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        write_atomically(workdir / HOLDER, json.dumps(holder) + "\n")
        yield
    finally:
        (workdir / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    """Who holds the lock, in words."""
    try:
        held = json.loads(path.read_text())
        return f"process {held['process']} on {held['host']}, since {held['since']},"
    except (OSError, ValueError, KeyError, TypeError):  # not written yet
        return "another process"

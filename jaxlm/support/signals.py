"""Signals that ask a long program to end: noted, so that it can save its work first."""

import contextlib
import signal
import threading
from collections.abc import Iterator

AGAIN = 75  # exit status: start the same command again (EX_TEMPFAIL)


class Stopped(Exception):
    """A program has saved its work and ends, because a signal asked for it.

    Attributes:
        status: exit status: `AGAIN`, or 130 if the user interrupted.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.status = 130 if number == signal.SIGINT else AGAIN


class Signals:
    """Notes SIGTERM (of a scheduler or a preempted machine) and the first SIGINT (Ctrl-C); the second one interrupts.

    Attributes:
        noted: the signal's number; None so far.
    """

    def __init__(self):
        self.noted: int | None = None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Context in which signals are noted; it does nothing but in the main thread, to which Python delivers them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        del frame
        if self.noted is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.noted = number

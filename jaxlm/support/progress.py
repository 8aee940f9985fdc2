"""Progress bar, updated several times a second on a terminal and every half minute in a log file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress(iterable: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """tqdm progress bar over an iterable; takes the options of tqdm."""
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(iterable, dynamic_ncols=True, mininterval=interval, maxinterval=max(interval, 10.0), **options)

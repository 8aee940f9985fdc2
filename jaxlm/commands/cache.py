"""Lists the prepared data sets of the cache folder, and removes those that are out of date.

    jaxlm cache
    jaxlm cache --remove                 # prepared again since, because the data set has changed
    jaxlm cache --remove --unused=30     # and those that no command has used for 30 days

A data set is prepared again whenever its files change; what was prepared of the old files stays until it is removed
here. What this version of the package has not used yet, such as data of other programs, is listed and stays.
"""

import dataclasses
from pathlib import Path

from jaxlm.data.prepared import Prepared, days_unused, delete, find_prepared


@dataclasses.dataclass(frozen=True)
class Options:
    cache: str = "~/.cache/jaxlm"
    """Folder of the prepared data, `config.data.cache`."""
    remove: bool = False
    """Delete what is out of date."""
    unused: float | None = None
    """With --remove: delete what was not used for so many days, too."""


def main(options: Options) -> list[Prepared]:
    """Prints a line for each prepared data set and returns those that are left."""
    if options.unused is not None and not options.remove:
        raise ValueError("--unused goes with --remove.")
    cache, left = Path(options.cache).expanduser(), []
    if not cache.is_dir():
        raise ValueError(f"{cache} is no folder: name that of config.data.cache.")
    for one in find_prepared(cache):
        unused = options.unused is not None and one.root != "?" and days_unused(one) > options.unused
        old = one.outdated or unused
        if old and options.remove:
            delete(one)
        else:
            left.append(one)
        state = "removed" if old and options.remove else "out of date" if one.outdated else ""
        print(f"{one.megabytes:10.1f} MB {days_unused(one):6.0f} days  {one.kind:<18} {one.root}  {state}".rstrip())
    print(f"{sum(one.megabytes for one in left):10.1f} MB in {len(left)} prepared data sets of {cache}")
    return left

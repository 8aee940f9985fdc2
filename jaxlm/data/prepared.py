"""The prepared data sets in a cache folder: what they are, how large, and which of them are out of date."""

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

from jaxlm.support.files import write_atomically

USE = "use.json"  # beside the prepared files: what they are of, and by its time when they were used


class Prepared(NamedTuple):
    """One prepared data set.

    Attributes:
        folder: of its files.
        kind: name of its builder.
        root: of the data set as published; "?" where an older version of the package has prepared it.
        options: of the builder.
        megabytes: of its files.
        used: seconds since the epoch when it was last used; when it was prepared, where that is not known.
        outdated: whether the same data set with the same options was prepared again and used later.
    """

    folder: Path
    kind: str
    root: str
    options: dict[str, str]
    megabytes: float
    used: float
    outdated: bool = False


def note_use(folder: Path, kind: str, root: Path, options: dict[str, str]) -> None:
    """Notes that a prepared data set is used now, and what it is; does nothing in a cache that is read-only."""
    path = folder / USE
    content = {"kind": kind, "root": str(root.resolve()), "options": options}
    with contextlib.suppress(OSError):
        if path.exists():
            path.touch()
        else:
            write_atomically(path, json.dumps(content) + "\n")


def find_prepared(cache: Path) -> list[Prepared]:
    """The prepared data sets of a cache folder, the last used first."""
    found = []
    for info in sorted(cache.glob("*/*/*/dataset_info.json")):
        folder = info.parent
        held: dict[str, Any] = {}
        if (folder / USE).exists():
            with contextlib.suppress(ValueError):
                read = json.loads((folder / USE).read_text(errors="replace"))
                held = read if isinstance(read, dict) else {}
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        used = (folder / USE if held else info).stat().st_mtime
        kind = held.get("kind", folder.parent.parent.name)
        found.append(Prepared(folder, kind, held.get("root", "?"), held.get("options", {}), size / 1e6, used))
    found.sort(key=lambda one: -one.used)
    seen: list[tuple] = []
    marked = []
    for one in found:
        same = (one.kind, one.root, one.options)
        marked.append(one._replace(outdated=one.root != "?" and same in seen))
        seen.append(same)
    return marked


def delete(one: Prepared) -> None:
    """Deletes the files of a prepared data set; it is prepared again when it is needed."""
    shutil.rmtree(one.folder)
    with contextlib.suppress(OSError):  # other versions of it lie beside it
        one.folder.parent.rmdir()


def days_unused(one: Prepared) -> float:
    """Days since a prepared data set was used."""
    return (time.time() - one.used) / 86400

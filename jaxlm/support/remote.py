"""Paths on object storage in the words of a command line."""

import contextlib
import re
from collections.abc import Sequence

from jaxlm.support import storage
from jaxlm.support.storage import is_remote

_FILES = ("contact-sheet", "meta-choices")  # commands whose --out is a file
# Commands that write into their --workdir, and those of them that need not find one.
_BEGIN = ("train", "ablation", "choose", "convert")
_WORK_IN = (*_BEGIN, "eval", "calibrate", "dense")
_SHARED = ("--shard", "--distributed")


def local_words(command: str, words: Sequence[str], stack: contextlib.ExitStack) -> list[str]:
    """Words of a command line with local paths in place of those on object storage.

    The folder of results, and a workdir that the command works in, are written back, at the latest when the stack is
    closed; everything else is fetched. Fields of a config stay as they are.

    Raises:
        ValueError: as `storage.fetch` and `storage.mirrored`, and for several machines that would not see each other's
            results.
    """
    found, option = [], ""
    shared = next((flag for flag in _SHARED if any(word.startswith(flag) for word in words)), None)
    for word in words:
        name, equals, values = word.partition("=")
        given = bool(equals) and name.startswith("-")
        if not given:
            name, equals, values = "", "", word
        of = name or option
        if not of.startswith("--config"):
            parts = values.split(",") if "://" in values else [values]
            local = [_local(command, of, part, shared, stack) for part in parts]
            word = f"{name}{equals}{','.join(local)}"
        # The next word is this option's value; options of the package that take several take no results.
        option = word if word.startswith("-") and not given else option if option.endswith("s") and not given else ""
        found.append(word)
    return found


def _local(command: str, option: str, place: str, shared: str | None, stack: contextlib.ExitStack) -> str:
    if not is_remote(place):
        if re.match(r"[a-z0-9]+://", place):
            known = ", ".join(f"{kind}://" for kind in storage.PACKAGES)
            raise ValueError(f"{place} is on no storage that is known: name a local path, or one of {known}.")
        return place
    if option in ("--plot", "--json") or (option == "--out" and command in _FILES):
        return str(stack.enter_context(storage.written(place)))
    if option == "--out" or (option == "--workdir" and command in _WORK_IN):
        if shared:
            raise ValueError(
                f"{shared} needs an {option} that all machines share; {place} is copied to each: mount it, and name "
                "the folder."
            )
        if option == "--workdir" and command not in _BEGIN and not storage.exists(place):
            raise ValueError(f"{place} does not exist.")
        alone = option == "--workdir" and command in _BEGIN
        return str(stack.enter_context(storage.mirrored(place, alone=alone)))
    return str(storage.fetch(place))

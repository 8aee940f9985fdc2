"""Shards of a list of files for several machines that run the same command: `--shard=2/8` is the second of eight.

Every machine writes its part beside the others', into the same folder. The last one to finish joins the parts.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jaxlm.support.files import without_nan, write_atomically

Item = TypeVar("Item")


class Shard(NamedTuple):
    """One of several shares of a list.

    Attributes:
        number: of this share, from 1.
        count: of all shares.
    """

    number: int
    count: int

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Every `count`-th item, so that long and short files are mixed in each share."""
        return list(items[self.number - 1 :: self.count])

    def part(self, path: Path) -> Path:
        """File of this share's part of a result: `name.2of8.json` of `name.json`; `path` itself if it is all."""
        return path if self.count == 1 else path.with_suffix(f".{self.number}of{self.count}{path.suffix}")

    def parts(self, path: Path) -> list[Path]:
        """Files of all shares' parts of a result."""
        return [Shard(number, self.count).part(path) for number in range(1, self.count + 1)]


ALL = Shard(1, 1)


def parse_shard(text: str | None) -> Shard:
    """The shard that an option names, "2/8"; all items for None.

    Raises:
        ValueError: for another form, or a number that is not one of 1 to the count.
    """
    if text is None:
        return ALL
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    shard = Shard(*map(int, match.groups())) if match else Shard(0, 0)
    if not 1 <= shard.number <= shard.count:
        raise ValueError(f"--shard must look like 2/8, the second of eight, counted from 1; got {text!r}.")
    return shard


def write_part(path: Path, part: Any, shard: Shard, join: Callable[[list[Any]], Any], run: Any = None) -> Any:
    """Writes a share's part of a JSON file; joins the parts if they are all there.

    Args:
        path: the whole file.
        part: what this share found.
        shard: this share.
        join: all parts, in the order of their numbers -> content of the whole file.
        run: what the shares of one run have in common, such as the model and all files; parts of another run count as
            missing.

    Returns:
        The content of the whole file; None if parts are missing.
    """
    if shard.count == 1:
        write_atomically(path, json.dumps(without_nan(part), indent=1) + "\n")
        return part
    mark = hashlib.sha256(json.dumps(run).encode()).hexdigest()[:16]
    write_atomically(shard.part(path), json.dumps({"run": mark, "part": without_nan(part)}, indent=1) + "\n")
    held = [json.loads(file.read_text()) if file.exists() else {} for file in shard.parts(path)]
    parts = [content["part"] for content in held if content.get("run") == mark]
    if len(parts) < shard.count:
        missing = shard.count - len(parts)
        print(f"{shard.part(path)}: {missing} of {shard.count} shards are missing, the last one joins them all.")
        return None
    whole = join(parts)
    write_atomically(path, json.dumps(whole, indent=1) + "\n")
    return whole

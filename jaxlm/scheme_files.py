"""Landmark schemes of one's own, as JSON.

```json
{
  "name": "cat5",
  "landmarks": ["left_eye", "right_eye", "nose", "left_mouth", "right_mouth"],
  "mirror": [["left_eye", "right_eye"], ["left_mouth", "right_mouth"]],
  "lines": {"mouth": ["left_mouth", "right_mouth"]},
  "groups": {"eyes": ["left_eye", "right_eye"], "mouth": ["nose", "left_mouth", "right_mouth"]},
  "normalizers": {"inter_ocular": ["left_eye", "right_eye"]}
}
```

Only `name` and `landmarks` must be there. Landmarks are given by name or by their place, from 0.
"""

import functools
import json
import re
from pathlib import Path
from typing import Any

from jaxlm.schemes import SCHEMES, Line, Scheme

_KEYS = ("name", "landmarks", "mirror", "lines", "groups", "normalizers")
_NORMALIZERS = ("inter_ocular", "inter_pupil", "torso")


def read_scheme(path: str | Path) -> str:
    """Text of a scheme's file on one line, which stands for the scheme in a config and needs the file no more.

    Raises:
        ValueError: naming the file and what is wrong in it.
    """
    path = Path(path).expanduser()
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: name a landmark scheme or its JSON file.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); correct the file.") from None
    if isinstance(content, dict):  # in one order, for comparisons
        content = {**{key: content[key] for key in _KEYS if key in content}, **content}
    text = json.dumps(content)
    try:
        parse_scheme(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return text


@functools.lru_cache(maxsize=64)
def parse_scheme(text: str) -> Scheme:
    """The scheme that a file's text describes.

    Raises:
        ValueError: naming the field that is wrong.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The landmark scheme is not valid JSON ({error}).") from None
    if not isinstance(content, dict):
        raise ValueError("a landmark scheme is a JSON object with name and landmarks.")
    unknown = [key for key in content if key not in _KEYS]
    if unknown:
        raise ValueError(f"a landmark scheme has no field {unknown[0]!r}; choose from {', '.join(_KEYS)}.")
    name, names = content.get("name"), content.get("landmarks")
    if not (isinstance(name, str) and re.fullmatch(r"\w[\w-]{0,63}", name)) or name in SCHEMES:
        raise ValueError(f"name must be a word that no scheme of the package has, got {name!r}.")
    if not (isinstance(names, list) and names and all(isinstance(word, str) and word for word in names)):
        raise ValueError("landmarks must be a list of names.")
    if len(set(names)) < len(names):
        raise ValueError(f"landmarks has {max(names, key=names.count)!r} twice.")
    read = _Reader(names)
    lines = [read.line(key, value) for key, value in _object(content, "lines").items()]
    groups = {key: read.indices(value, f"groups.{key}") for key, value in _object(content, "groups").items()}
    lengths = _object(content, "normalizers")
    for key in lengths:
        if key not in _NORMALIZERS:
            raise ValueError(f"normalizers has no {key!r}; choose from {', '.join(_NORMALIZERS)}.")
    return Scheme(
        name=name,
        num_landmarks=len(names),
        mirror_pairs=read.mirror_pairs(content.get("mirror", [])),
        outer_eye_corners=read.pair(lengths.get("inter_ocular"), "normalizers.inter_ocular"),
        pupils=read.pupils(lengths.get("inter_pupil")),
        lines=tuple(lines),
        parts=groups or {"all": tuple(range(len(names)))},
        torso=read.pair(lengths.get("torso"), "normalizers.torso"),
        own_names=tuple(names),
    )


def _object(content: dict[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{key} must be an object: a name and landmarks each.")
    return value


class _Reader:
    """Reads landmarks that are given by name or by place."""

    def __init__(self, names: list[str]):
        self.names = names

    def indices(self, value: Any, where: str) -> tuple[int, ...]:
        if not isinstance(value, list) or not value:
            raise ValueError(f"{where} must be a list of landmarks.")
        found = []
        for item in value:
            if isinstance(item, str) and item in self.names:
                found.append(self.names.index(item))
            elif isinstance(item, int) and not isinstance(item, bool) and 0 <= item < len(self.names):
                found.append(item)
            else:
                raise ValueError(f"{where} has {item!r}, which is neither a name in landmarks nor a place there.")
        if len(set(found)) < len(found):
            raise ValueError(f"{where} has a landmark twice.")
        return tuple(found)

    def pair(self, value: Any, where: str) -> tuple[int, int] | None:
        if value is None:
            return None
        found = self.indices(value, where)
        if len(found) != 2:
            raise ValueError(f"{where} must be two landmarks, got {len(found)}.")
        return found[0], found[1]

    def pupils(self, value: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        if value is None:
            return None
        where = "normalizers.inter_pupil"
        if not isinstance(value, list) or len(value) != 2:
            raise ValueError(f"{where} must be two lists of landmarks.")
        return self.indices(value[0], where), self.indices(value[1], where)

    def line(self, name: str, value: Any) -> Line:
        """A list of landmarks, or an object with the list as "points" and "closed"."""
        given = value if isinstance(value, dict) else {"points": value}
        closed = given.get("closed", False)
        if set(given) - {"points", "closed"} or not isinstance(closed, bool):
            raise ValueError(f"lines.{name} must be a list of landmarks, or points and closed (true or false).")
        points = self.indices(given.get("points"), f"lines.{name}")
        if len(points) < 2:
            raise ValueError(f"lines.{name} must have at least two landmarks.")
        return Line(name, points, closed)

    def mirror_pairs(self, value: Any) -> tuple[tuple[int, int], ...]:
        if not isinstance(value, list):
            raise ValueError("mirror must be a list of pairs of landmarks.")
        pairs = [self.pair(item or [], "mirror") for item in value]
        swapped = [index for pair in pairs if pair for index in pair]
        if len(set(swapped)) < len(swapped):
            raise ValueError(f"mirror has {self.names[max(swapped, key=swapped.count)]!r} in two pairs.")
        return tuple(pair for pair in pairs if pair)

"""Lists the models inside the package: landmarks, size, accuracy on real photographs, and speed.

    jaxlm models
    jaxlm predict --model=faces98 portrait.jpg --out=out

`--workdir` of eval, export and track and `--workdirs` of compare take one of these names, too. How the models were
made, and what the figures mean, is written in docs/shipped.md.
"""

import dataclasses
import json
from typing import Any

from jaxlm.predict.model import CARD, PARAMETERS, shipped_folder, shipped_models

_COLUMNS = (
    ("landmarks", "landmarks", "d"),
    ("megabytes", "MB", ".1f"),
    ("lfpw", "LFPW %", ".2f"),
    ("ytf", "YTF %", ".2f"),
    ("milliseconds", "ms a face", ".1f"),
)


@dataclasses.dataclass(frozen=True)
class Options:
    pass


def main(options: Options) -> list[dict[str, Any]]:
    """Prints the table and returns its rows."""
    del options
    rows = []
    for name in shipped_models():
        folder = shipped_folder(name)
        size = sum(file.stat().st_size for file in (folder / PARAMETERS).rglob("*") if file.is_file())
        rows.append({"name": name, "megabytes": size / 1e6, **json.loads((folder / CARD).read_text())})
    print(f"{'model':<10}" + "".join(f"{title:>12}" for _, title, _ in _COLUMNS))
    for row in rows:
        print(f"{row['name']:<10}" + "".join(f"{row[key]:>12{form}}" for key, _, form in _COLUMNS))
    print(f"\nNME and time: {rows[0]['measured']}")
    return rows

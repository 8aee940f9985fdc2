"""The papers' ablation tables: what each row changes in a config, and the number that the paper prints.

Each system has the tables of its paper in its own `tables.py`. A config file offers the rows as variants
(`configs/awing_wflw.py:aw_wm`); `jaxlm ablation` trains a table.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxlm.config import Config


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        label: as the paper writes it.
        changes: field of the config -> value; a dict replaces the field whole.
        paper: the paper's number; None where its text has none.
    """

    label: str
    changes: dict[str, Any]
    paper: float | None


class Table(NamedTuple):
    """An ablation.

    Attributes:
        title: what the paper's table shows, on which data.
        metric: field of the evaluation's JSON.
        rows: variant -> row.
    """

    title: str
    metric: str
    rows: dict[str, Row]


def apply_row(config: Config, name: str, tables: Mapping[str, Table], others: tuple[str, ...] = ()) -> None:
    """Changes `config` to the row `name` of one of the tables.

    Args:
        config: with the fields that the row changes.
        name: of the row.
        tables: that are looked through.
        others: further variants that the config file has, for the message.

    Raises:
        ValueError: naming the variants that exist, or the field that the config does not have.
    """
    rows = {key: row for table in tables.values() for key, row in table.rows.items()}
    if name not in rows:
        raise ValueError(f"There is no variant {name!r}; choose one of {', '.join([*others, *rows])}.")
    for field, value in rows[name].changes.items():
        *parents, last = field.split(".")
        place: Any = config
        for parent in parents:
            place = place[parent] if parent in place else ConfigDict()
        if last not in place:
            raise ValueError(f"The row {name!r} changes {field}, which this config of {config.system!r} does not have.")
        place[last] = ConfigDict(value) if isinstance(value, dict) else value

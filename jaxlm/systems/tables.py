"""The papers' ablation tables: what each row changes in a config, and the number that the paper prints.

Each system has the tables of its paper in its own `tables.py`. A config file offers the rows as variants
(`configs/awing_wflw.py:aw_wm`); `jaxlm ablation` trains a table.
"""

import functools
from collections.abc import Callable, Mapping
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


def rows_of(tables: Mapping[str, Table]) -> dict[str, Callable[[Any], None]]:
    """Name of every row of the tables -> the change that it makes to a config, for `jaxlm.config.apply_variant`."""
    rows = {name: row for table in tables.values() for name, row in table.rows.items()}
    return {name: functools.partial(apply_row, name, row) for name, row in rows.items()}


def apply_row(name: str, row: Row, config: Config) -> None:
    """Changes a config to a row of a table.

    Raises:
        ValueError: naming a field that the config does not have.
    """
    for field, value in row.changes.items():
        *parents, last = field.split(".")
        place: Any = config
        for parent in parents:
            place = place[parent] if parent in place else ConfigDict()
        if last not in place:
            raise ValueError(f"The row {name!r} changes {field}, which this config of {config.system!r} does not have.")
        if isinstance(value, dict):
            with config.unlocked():
                place[last] = ConfigDict(value)
        else:
            place[last] = value

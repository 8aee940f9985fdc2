"""Trains the rows of a paper's table with one seed and one budget, and prints them beside the paper's numbers.

    jaxlm ablation --config=awing_faces68 --table=awing_7 --workdir=runs/table7

Every row is an ordinary workdir, `<workdir>/<row>`. A finished row is not trained again, and an interrupted one goes
on, so rows may also be trained one by one (`--rows mse aw`). The table is written after every row.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxlm import systems
from jaxlm.commands.evaluate import evaluate_workdir
from jaxlm.commands.options import FromConfig, config_of_file
from jaxlm.config import Config
from jaxlm.support.errors import NonFiniteError
from jaxlm.support.files import without_nan, write_atomically
from jaxlm.support.program import split_commas
from jaxlm.systems.awing import tables as awing
from jaxlm.systems.reinit import tables as reinit
from jaxlm.systems.tables import Table, apply_row
from jaxlm.systems.tddfa import tables as tddfa
from jaxlm.training import train
from jaxlm.workdir.config_file import load_config

TABLES: dict[str, Table] = {**awing.TABLES, **reinit.TABLES, **tddfa.TABLES}


def run(config: Config, name: str, workdir: str | Path, rows: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Trains and evaluates rows of a table; writes `table.json` and `table.md` in `workdir`.

    Args:
        config: what all rows share, but for the fields that a row changes.
        name: key of `TABLES`.
        workdir: folder of the rows' workdirs.
        rows: some of the table's; all where it is None.

    Returns:
        Row -> {label, paper, measured, and the whole report of the first evaluated set}, with the rows that the workdir
        held before. A row whose training diverged has None for what was measured.

    Raises:
        ValueError: for a table or row that does not exist or does not fit the config, or a row that was begun with
            another config.
    """
    if name not in TABLES:
        raise ValueError(f"There is no table {name!r}; choose one of {', '.join(TABLES)}.")
    table, folder = TABLES[name], Path(workdir).expanduser()
    chosen = list(table.rows) if rows is None else rows
    for row in chosen:
        if row not in table.rows:
            raise ValueError(f"The table {name} has no row {row!r}; choose one of {', '.join(table.rows)}.")
    variants = {}
    for row in table.rows:  # those of before stand in the same table
        variants[row] = config.copy_and_resolve_references()
        apply_row(row, table.rows[row], variants[row])
        _check_begun(folder / row, variants[row])
    results = _earlier(folder / "table.json", table)
    for number, row in enumerate(chosen, start=1):
        variant = variants[row]
        print(f"\n{table.rows[row].label} ({row}), {number} of {len(chosen)}")
        report: dict[str, Any] = {}
        try:
            train(variant, folder / row)
            report = json.loads(evaluate_workdir(variant, folder / row)[0].read_text())
        except NonFiniteError as error:
            print(f"{row} diverged: {error}")
        labels = {"label": table.rows[row].label, "paper": table.rows[row].paper}
        results[row] = {**labels, "measured": report.get(table.metric), "report": report}
        results = {row: results[row] for row in table.rows if row in results}
        summary = {"title": table.title, "metric": table.metric, "rows": results}
        write_atomically(folder / "table.json", json.dumps(without_nan(summary), indent=2) + "\n")
        write_atomically(folder / "table.md", markdown(table, results) + "\n")
    print(f"\n{markdown(table, results)}\n\nwritten: {folder}/table.md, table.json")
    return results


def check_free(field: str, name: str) -> None:
    """Raises a ValueError if a field that was set on the command line is one that the rows of a table change."""
    changed = {change for row in TABLES[name].rows.values() for change in row.changes} if name in TABLES else set()
    if any(field == change or field.startswith(f"{change}.") for change in changed):
        raise ValueError(f"--config.{field} is set by the rows of {name}; leave it out.")


def _check_begun(workdir: Path, config: Config) -> None:
    """Raises a ValueError if the row's workdir was trained with another config."""
    if not (workdir / "config.json").exists():
        return
    saved, ours = (_flat(c.to_dict()) for c in (load_config(workdir), systems.completed(config)))
    ignored = (
        "data.root",
        "data.cache",
        "data.threads",
        "eval.",
        "video.",
        "train.log_every",
        "train.checkpoint_every",
    )
    fields = {field for field in saved | ours if not field.startswith(ignored)}
    different = sorted(field for field in fields if saved.get(field) != ours.get(field))
    if different:
        raise ValueError(
            f"{workdir} was begun with another {', '.join(different)}; choose another --workdir or the same values."
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _earlier(path: Path, table: Table) -> dict[str, dict[str, Any]]:
    """Rows of this table that an earlier call wrote."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return content["rows"] if content["title"] == table.title else {}


def markdown(table: Table, results: dict[str, dict[str, Any]]) -> str:
    """Rows with the paper's number, ours, and both relative to the first row."""
    first = next(iter(results.values()))
    report = next((result["report"] for result in results.values() if result["report"]), {})
    measured = "nothing, every row diverged"
    if report:
        measured = (
            f"{report['data']}:{report['split']}, {report['count']} samples, crop {report['crop']}, normalizer "
            f"{report['normalizer']}, {report['image_size']} pixels, step {report['step']}"
        )
    lines = [
        f"{table.title}. Measured: {measured}.",
        "",
        f"| | {table.metric}, paper (%) | relative | {table.metric}, measured (%) | relative |",
        "|---|---|---|---|---|",
    ]
    for result in results.values():
        columns = [_beside(result[key], first[key]) for key in ("paper", "measured")]
        lines.append(f"| {result['label']} | {' | '.join(columns)} |")
    return "\n".join(lines)


def _beside(value: float | None, first: float | None) -> str:
    if value is None:
        return "– | –"
    return f"{value:.2f} | {value / first - 1:+.1%}" if first else f"{value:.2f} | –"


@dataclasses.dataclass(frozen=True)
class Options:
    table: str
    """A key of jaxlm.commands.ablation.TABLES: awing_5 to awing_8, reinit_1, _5, _6, _loss, tddfa_3, tddfa_4."""
    workdir: str
    """Folder of the rows' workdirs."""
    rows: tuple[str, ...] = ()
    """Some rows of the table; all without it."""
    config: FromConfig = None
    overrides: FromConfig = ()


read_config = config_of_file


def main(options: Options) -> dict[str, dict[str, Any]]:
    """Trains the rows and returns them, see `run`."""
    for field in options.overrides:
        check_free(field, options.table)
    return run(options.config, options.table, options.workdir, split_commas(options.rows) or None)

"""Trains the rows of a paper's table with one budget and some seeds, and prints them beside the paper's numbers.

    jaxlm ablation --config=awing_faces68 --table=awing_7 --workdir=runs/table7 --seeds 0 1 2

Every training is an ordinary workdir, `<workdir>/<row>/seed<n>`. A finished one is not trained again, and an
interrupted one goes on, so rows may also be trained one by one (`--rows mse aw`). The table is written after every
training. A setting that `jaxlm choose` found for a row replaces the config's. Differences from the first row have 95 %
intervals of a paired bootstrap over seeds and faces.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm import systems
from jaxlm.commands.evaluate import evaluate_workdir
from jaxlm.commands.options import FromConfig, config_of_file
from jaxlm.config import Config
from jaxlm.evaluation.report import read_nme
from jaxlm.metrics import paired_difference
from jaxlm.support.errors import NonFiniteError
from jaxlm.support.files import without_nan, write_atomically
from jaxlm.support.program import split_commas
from jaxlm.systems.awing import tables as awing
from jaxlm.systems.ldeq import tables as ldeq
from jaxlm.systems.reinit import tables as reinit
from jaxlm.systems.tables import Row, Table, apply_row
from jaxlm.systems.tddfa import tables as tddfa
from jaxlm.training import train
from jaxlm.workdir.config_file import load_config

TABLES: dict[str, Table] = {**ldeq.TABLES, **awing.TABLES, **reinit.TABLES, **tddfa.TABLES}
CHOICES = "choices.json"


def run(
    config: Config, name: str, workdir: str | Path, rows: list[str] | None = None, seeds: Sequence[int] = (0,)
) -> dict[str, dict[str, Any]]:
    """Trains and evaluates rows of a table; writes `table.json` and `table.md` in `workdir`.

    Args:
        config: what all rows share, but for the fields that a row changes, and the seed.
        name: key of `TABLES`.
        workdir: folder of the rows' workdirs.
        rows: some of the table's; all where it is None.
        seeds: of the trainings of each row.

    Returns:
        Row -> {label, paper, measured, difference and seeds}, with the trainings that the workdir held before. "seeds"
        has the report of the first evaluated set for each seed, {} where the training diverged; "measured" is the mean
        over them, and "difference" that from the table's first row with its interval.

    Raises:
        ValueError: for a table or row that does not exist or does not fit the config, or a row that was begun with
            another config.
    """
    chosen = chosen_rows(name, rows)
    table, folder = TABLES[name], Path(workdir).expanduser()
    choices, variants = read_choices(folder), {}
    for row, change in table.rows.items():  # those of before stand in the same table
        variants[row] = config.copy_and_resolve_references()
        values = {field: choice["value"] for field, choice in choices.get(row, {}).items()}
        apply_row(row, change._replace(changes={**change.changes, **values}), variants[row])
        for before in folder.glob(f"{row}/seed*"):
            _check_begun(before, variants[row])
    reports, results = _earlier(folder / "table.json", table), {}
    trainings = [(seed, row) for seed in seeds for row in chosen]
    for number, (seed, row) in enumerate(trainings, start=1):
        variant, place = variants[row], folder / row / f"seed{seed}"
        variant.seed = int(seed)
        print(f"\n{table.rows[row].label} ({row}), seed {seed}, {number} of {len(trainings)}")
        report: dict[str, Any] = {}
        try:
            train(variant, place)
            path = evaluate_workdir(variant, place)[0]
            report = {**json.loads(path.read_text()), "of_each_face": read_nme(path).round(4).tolist()}
        except NonFiniteError as error:
            print(f"{row} diverged: {error}")
        reports.setdefault(row, {})[str(seed)] = report
        results = summarize(table, reports)
        summary = {"title": table.title, "metric": table.metric, "rows": results}
        write_atomically(folder / "table.json", json.dumps(without_nan(summary), indent=1) + "\n")
        write_atomically(folder / "table.md", markdown(table, results) + "\n")
    print(f"\n{markdown(table, results)}\n\nwritten: {folder}/table.md, table.json")
    return results


def summarize(table: Table, reports: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Rows of `run` from the reports of each row and seed, in the table's order."""
    results = {}
    rows = [row for row in table.rows if row in reports]
    for row in rows:
        of_seeds = [report[table.metric] for report in reports[row].values() if report]
        results[row] = {
            "label": table.rows[row].label,
            "paper": table.rows[row].paper,
            "measured": sum(of_seeds) / len(of_seeds) if of_seeds else None,
            "difference": _difference(reports[row], reports[rows[0]]) if table.metric == "nme" else None,
            "seeds": reports[row],
        }
    return results


def _difference(row: dict[str, dict[str, Any]], first: dict[str, dict[str, Any]]) -> list[float] | None:
    """Mean difference of the NME over the seeds that both rows have, and its interval."""
    both = [seed for seed in row if row[seed] and first.get(seed)]
    if not both or row is first:
        return None
    values, reference = ([of[seed]["of_each_face"] for seed in both] for of in (row, first))
    return list(paired_difference(np.array(values, float), np.array(reference, float)))


def chosen_rows(name: str, rows: Sequence[str] | None) -> dict[str, Row]:
    """Rows of a table by their names; all of them where `rows` is None.

    Raises:
        ValueError: for a table or row that does not exist.
    """
    if name not in TABLES:
        raise ValueError(f"There is no table {name!r}; choose one of {', '.join(TABLES)}.")
    table = TABLES[name]
    for row in rows or ():
        if row not in table.rows:
            raise ValueError(f"The table {name} has no row {row!r}; choose one of {', '.join(table.rows)}.")
    return dict(table.rows) if rows is None else {row: table.rows[row] for row in rows}


def read_choices(workdir: Path) -> dict[str, dict[str, Any]]:
    """Row -> field -> {value, nme, steps} that `jaxlm choose` wrote for a table's workdir; {} where it did not."""
    path = workdir / CHOICES
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}); run jaxlm choose again.") from error


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
        "seed",
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


def _earlier(path: Path, table: Table) -> dict[str, dict[str, dict[str, Any]]]:
    """Row -> seed -> report of the trainings of this table that an earlier call wrote."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    rows = content["rows"] if content["title"] == table.title else {}
    return {row: dict(result["seeds"]) for row, result in rows.items() if row in table.rows and "seeds" in result}


def markdown(table: Table, results: dict[str, dict[str, Any]]) -> str:
    """Rows with the paper's number and ours, both relative to the first row, and the interval of our difference."""
    first = next(iter(results.values()))
    reports = [report for result in results.values() for report in result["seeds"].values() if report]
    measured = "nothing, every row diverged"
    if reports:
        measured = (
            f"{reports[0]['data']}:{reports[0]['split']}, {reports[0]['count']} samples, crop {reports[0]['crop']}, "
            f"normalizer {reports[0]['normalizer']}, {reports[0]['image_size']} pixels, step {reports[0]['step']}"
        )
    lines = [
        f"{table.title}. Measured: {measured}.",
        "",
        f"| | {table.metric}, paper (%) | relative | {table.metric}, measured (%) | relative | difference | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results.values():
        columns = [_beside(result[key], first[key]) for key in ("paper", "measured")]
        values = [report[table.metric] for report in result["seeds"].values() if report]
        columns.append(_interval(result["difference"]))
        columns.append(" ".join(f"{value:.2f}" for value in values) or "–")
        lines.append(f"| {result['label']} | {' | '.join(columns)} |")
    return "\n".join(lines)


def _interval(difference: list[float] | None) -> str:
    if difference is None:
        return "–"
    mean, low, high = difference
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _beside(value: float | None, first: float | None) -> str:
    if value is None:
        return "– | –"
    return f"{value:.2f} | {value / first - 1:+.1%}" if first else f"{value:.2f} | –"


@dataclasses.dataclass(frozen=True)
class Options:
    table: str
    """A key of jaxlm.commands.ablation.TABLES: ldeq_gradient, ldeq_temperature, awing_5 to _8, reinit_1, _5, _6, _loss,
    tddfa_3, _4."""
    workdir: str
    """Folder of the rows' workdirs."""
    rows: tuple[str, ...] = ()
    """Some rows of the table; all without it."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the trainings of each row."""
    config: FromConfig = None
    overrides: FromConfig = ()


read_config = config_of_file


def main(options: Options) -> dict[str, dict[str, Any]]:
    """Trains the rows and returns them, see `run`."""
    for field in options.overrides:
        check_free(field, options.table)
    return run(options.config, options.table, options.workdir, split_commas(options.rows) or None, options.seeds)

"""Trains the rows of a paper's table with one seed and one budget, and prints them beside the paper's numbers.

    python -m jaxlm.ablation --config=configs/awing_faces68.py --table=awing_7 --workdir=runs/table7

Every row is an ordinary workdir, `<workdir>/<row>`: a row that is finished is not trained again, and one that was
interrupted goes on. The table is written after every row.
"""

import json
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from jaxlm.app import evaluate_workdir, one_sentence, parse_flags, quiet_logs
from jaxlm.checkpoints import write_atomically
from jaxlm.config import Config
from jaxlm.paper_tables import TABLES, Table, apply_variant
from jaxlm.training import train
from jaxlm.visualize import without_nan


def run(config: Config, name: str, workdir: str | Path, rows: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Trains and evaluates rows of a table; writes `table.json` and `table.md` in `workdir`.

    Args:
        config: what all rows share.
        name: key of `TABLES`.
        workdir: folder of the rows' workdirs.
        rows: some of the table's; all where it is None.

    Returns:
        Row -> {label, paper, measured, and the whole report of the first evaluated set}.

    Raises:
        ValueError: for a table or row that does not exist.
    """
    if name not in TABLES:
        raise ValueError(f"There is no table {name!r}; choose one of {', '.join(TABLES)}.")
    table, folder = TABLES[name], Path(workdir).expanduser()
    chosen = list(table.rows) if rows is None else rows
    variants = {}
    for row in chosen:
        variants[row] = config.copy_and_resolve_references()
        apply_variant(variants[row], row, (name,))
    results: dict[str, dict[str, Any]] = {}
    for row, variant in variants.items():
        print(f"\n{table.rows[row].label} ({row}), {len(results) + 1} of {len(variants)}")
        train(variant, folder / row)
        report = json.loads(evaluate_workdir(variant, folder / row)[0].read_text())
        labels = {"label": table.rows[row].label, "paper": table.rows[row].paper}
        results[row] = {**labels, "measured": report[table.metric], "report": report}
        summary = {"title": table.title, "metric": table.metric, "rows": results}
        write_atomically(folder / "table.json", json.dumps(without_nan(summary), indent=2) + "\n")
        write_atomically(folder / "table.md", markdown(table, results) + "\n")
    print(f"\n{markdown(table, results)}\n\nwritten: {folder}/table.md, table.json")
    return results


def markdown(table: Table, results: dict[str, dict[str, Any]]) -> str:
    """Rows with the paper's number, ours, and both relative to the first row."""
    first = next(iter(results.values()))
    report = first["report"]
    lines = [
        f"{table.title}. Measured: {report['data']}:{report['split']}, {report['count']} samples, crop "
        f"{report['crop']}, normalizer {report['normalizer']}, {report['image_size']} pixels, step {report['step']}.",
        "",
        f"| | {table.metric}, paper (%) | relative | {table.metric}, measured (%) | relative |",
        "|---|---|---|---|---|",
    ]
    for result in results.values():
        columns = [f"{result[key]:.2f} | {result[key] / first[key] - 1:+.1%}" for key in ("paper", "measured")]
        lines.append(f"| {result['label']} | {' | '.join(columns)} |")
    return "\n".join(lines)


def main(argv):
    del argv
    quiet_logs()
    with one_sentence():
        rows = [row for row in ROWS.value if row] or None
        run(CONFIG.value, TABLE.value, WORKDIR.value, rows)


if __name__ == "__main__":
    CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment that all rows share.")
    TABLE = flags.DEFINE_string("table", None, f"One of {', '.join(TABLES)}.", required=True)
    ROWS = flags.DEFINE_list("rows", [], "Some rows of the table; all without it.")
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the rows' workdirs.", required=True)
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)

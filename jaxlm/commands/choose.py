"""Chooses one setting for each row of a paper's table, on pictures that no table reports.

    jaxlm choose --config=ldeq_faces68 --table=ldeq_gradient --workdir=runs/gradients \\
        --field=optim.learning_rate --values 1e-3 2e-3 4e-3 --config.train.num_steps=600

Every row is trained with every value. These trainings leave out a tenth of each set that holds something out, as its
split "validation", and the value with the smallest NME there is written to `<workdir>/choices.json`. `jaxlm ablation`
with the same --workdir gives each row its value. A finished training is not repeated.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlm.commands.ablation import CHOICES, check_free, chosen_rows, read_choices
from jaxlm.commands.evaluate import evaluate_workdir
from jaxlm.commands.options import FromConfig, config_of_file
from jaxlm.config import Config
from jaxlm.support.errors import NonFiniteError
from jaxlm.support.files import write_atomically
from jaxlm.support.program import split_commas
from jaxlm.systems.tables import Row, apply_row
from jaxlm.training import train

VALIDATION = 0.1  # of the pictures, or of the people where a set is split by person


def run(
    config: Config, name: str, workdir: str | Path, field: str, values: Sequence[float], rows: list[str] | None = None
) -> dict[str, dict[str, Any]]:
    """Trains rows of a table with each value of a field; writes `choices.json` in `workdir`.

    Args:
        config: what all trainings share; `eval.sets` names the sets that the table reports.
        name: key of `jaxlm.commands.ablation.TABLES`.
        workdir: the folder that `jaxlm ablation` is given as well.
        field: of the config, such as "optim.learning_rate".
        values: of the field, to choose from.
        rows: some of the table's; all where it is None.

    Returns:
        Row -> field -> {value, nme, steps}: the chosen value, the mean NME over the validation sets in per cent for
        each value, None where the training diverged, and the steps of these trainings.

    Raises:
        ValueError: for a table, row or field that does not exist, or if the config holds nothing out.
    """
    check_free(field, name)
    folder = Path(workdir).expanduser()
    config = with_validation(config)
    for row, change in chosen_rows(name, rows).items():
        measured: dict[str, float | None] = {}
        for value in values:
            variant = config.copy_and_resolve_references()
            apply_row(row, change, variant)
            apply_row(row, Row(change.label, {field: _like(value, field, variant)}, None), variant)
            print(f"\n{change.label} ({row}), {field} = {value:g}")
            measured[f"{value:g}"] = _validate(variant, folder / "choose" / field / row / f"{value:g}")
        finished = {value: nme for value, nme in measured.items() if nme is not None}
        if not finished:
            print(f"{row} diverged with every value; it keeps the config's {field}.")
            continue
        best = min(finished, key=finished.__getitem__)
        choices = read_choices(folder)
        folder.mkdir(parents=True, exist_ok=True)
        choices.setdefault(row, {})[field] = {"value": float(best), "nme": measured, "steps": config.train.num_steps}
        write_atomically(folder / CHOICES, json.dumps(choices, indent=1) + "\n")
        print(f"{row}: {field} = {best}")
    return read_choices(folder)


def _like(value: float, field: str, config: Any) -> float | int:
    """The value as a whole number where the config's field holds one."""
    for name in field.split("."):
        config = config.get(name) if hasattr(config, "get") else None
    whole = isinstance(config, int) and not isinstance(config, bool) and value == int(value)
    return int(value) if whole else value


def with_validation(config: Config) -> Config:
    """Copy of a config that leaves out a tenth of each set that it holds something out of, and evaluates on that.

    Raises:
        ValueError: if no set of `eval.sets` is a split "heldout".
    """
    config = config.copy_and_resolve_references()
    names = [name.partition(":")[0] for name in config.eval.sets if name.endswith(":heldout")]
    if not names:
        raise ValueError(
            "Nothing is held out of the training sets, so there is nothing to choose on: set heldout of a source, and "
            "name its split in eval.sets, such as --config.eval.sets=\"('300w:heldout',)\"."
        )
    for name in names:
        config.data.sources[name].validation = VALIDATION
    config.eval.sets = tuple(f"{name}:validation" for name in names)
    return config


def _validate(config: Config, workdir: Path) -> float | None:
    """Mean NME over the evaluated sets after a training, in per cent; None if the training diverged."""
    try:
        train(config, workdir)
    except NonFiniteError as error:
        print(f"The training diverged: {error}")
        return None
    nme = [json.loads(path.read_text())["nme"] for path in evaluate_workdir(config, workdir)]
    return sum(nme) / len(nme)


@dataclasses.dataclass(frozen=True)
class Options:
    table: str
    """A table of `jaxlm ablation`."""
    workdir: str
    """Folder of the table's workdirs."""
    field: str
    """Field of the config to choose, such as optim.learning_rate."""
    values: tuple[float, ...]
    """Values to choose from."""
    rows: tuple[str, ...] = ()
    """Some rows of the table; all without it."""
    config: FromConfig = None
    overrides: FromConfig = ()


read_config = config_of_file


def main(options: Options) -> dict[str, dict[str, Any]]:
    """Trains the rows and returns what was chosen, see `run`."""
    for field in options.overrides:
        check_free(field, options.table)
    rows = split_commas(options.rows) or None
    return run(options.config, options.table, options.workdir, options.field, options.values, rows)

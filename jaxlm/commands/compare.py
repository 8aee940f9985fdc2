"""Compares trained models on one data set: table, error curves, costs.

    jaxlm compare --workdirs runs/ldeq runs/awing exported/model.onnx --data=300w:test --out=compared

Every model sees the same faces, those of the first model's config, under its own crop protocol and image size.
"""

import dataclasses
import sys
from pathlib import Path

from jaxlm.data import sources
from jaxlm.data.sources import with_source
from jaxlm.evaluation.comparison import Entry, markdown, measure, write
from jaxlm.predict.model import load_model
from jaxlm.support.program import make_folder, split_commas


def short_names(paths: list[str]) -> list[str]:
    """The last part of each path, and as much before it as tells them apart."""
    parts = [Path(path).expanduser().resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"A model is named twice among {', '.join(paths)}; name each once.")


@dataclasses.dataclass(frozen=True)
class Options:
    workdirs: tuple[str, ...]
    """Workdirs or exported models."""
    data: str | None = None
    """source[:split]; the first evaluation set of the first model without it."""
    root: str | None = None
    """The data set's files, where --data names a builder."""
    out: str = "compared"
    """Folder of the results."""
    repeats: int = 50
    """Calls that are timed."""


def main(options: Options) -> list[Entry]:
    """Measures the models and returns them; writes `comparison.md`, `.json` and `_ced.png`."""
    if options.repeats < 1:
        raise ValueError(f"--repeats must be at least 1, got {options.repeats}.")
    paths = split_commas(options.workdirs)
    names = short_names(paths)
    models = [load_model(path) for path in paths]
    out = make_folder(options.out)
    # The data set as the first model's config has it: every model sees the same faces.
    config = models[0].config
    data = options.data or config.eval.sets[0]
    config = config if options.root is None else with_source(config, data.partition(":")[0], options.root)
    source, entries, failed = sources.open_set(config, data), [], []
    for model, name in zip(models, names, strict=True):
        try:
            entries.append(measure(model, name, source, options.repeats))
        except ValueError as error:
            failed.append(name)
            print(f"Error: {error}", file=sys.stderr)
    if not entries:
        raise ValueError("None of the models could be measured.")
    write(out, entries, data)
    print(f"\n{markdown(entries, data)}\nwritten: {out}/comparison.md, comparison.json, comparison_ced.png")
    if failed:
        raise ValueError(f"{len(failed)} of {len(models)} models are missing: {', '.join(failed)}.")
    return entries

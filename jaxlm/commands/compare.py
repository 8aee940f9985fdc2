"""FIXME Several trained models on one data set, side by side."""

import sys
from pathlib import Path

from absl import app, flags

from jaxlm.data import sources
from jaxlm.data.sources import with_source
from jaxlm.evaluation.comparison import markdown, measure, write
from jaxlm.predict.model import load
from jaxlm.support.program import make_folder, one_sentence, parse_flags, quiet_logs


def short_names(paths: list[str]) -> list[str]:
    """The last part of each path, and as much before it as tells them apart."""
    parts = [Path(path).expanduser().resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"A model is named twice among {', '.join(paths)}; name each once.")


def main(argv: list[str]) -> None:
    quiet_logs()
    with one_sentence():
        if len(argv) > 1:
            raise ValueError(f"{argv[1]} is no option; models are named by --workdirs=a,b.")
        names, out = short_names(WORKDIRS.value), Path(OUT.value).expanduser()
        models = [load(path) for path in WORKDIRS.value]
        out = make_folder(out)
        # The data set as the first model's config has it: every model sees the same faces.
        config = models[0].config
        data = DATA.value or config.eval.sets[0]
        config = config if ROOT.value is None else with_source(config, data.partition(":")[0], ROOT.value)
        source, entries, failed = sources.open_set(config, data), [], []
        for model, name in zip(models, names, strict=True):
            try:
                entries.append(measure(model, name, source, REPEATS.value))
            except ValueError as error:
                failed.append(name)
                print(f"Error: {error}", file=sys.stderr)
        if not entries:
            raise ValueError("None of the models could be measured.")
        write(out, entries, data)
        print(f"\n{markdown(entries, data)}\nwritten: {out}/comparison.md, comparison.json, comparison_ced.png")
        if failed:
            raise ValueError(f"{len(failed)} of {len(models)} models are missing: {', '.join(failed)}.")


if __name__ == "__main__":
    WORKDIRS = flags.DEFINE_list("workdirs", None, "Workdirs or exported models, with commas.", required=True)
    DATA = flags.DEFINE_string("data", None, "source or source:split; the first set of the first model otherwise.")
    ROOT = flags.DEFINE_string("root", None, "The files of the data set, where --data names a builder.")
    OUT = flags.DEFINE_string("out", "compared", "Folder of the results.")
    REPEATS = flags.DEFINE_integer("repeats", 50, "Calls that are timed.", lower_bound=1)
    app.run(main, flags_parser=parse_flags)

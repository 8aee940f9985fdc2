"""Evaluates a model in any form on data sets of stills and videos: tables, JSON, plots.

jaxlm eval --workdir=runs/quickstart
jaxlm eval --workdir=runs/quickstart --data=own --root=faces.csv
jaxlm eval --workdir=faces98 --data=rendered:test --out=evaluated
"""

import dataclasses
import json
from pathlib import Path

from jaxlm.commands.options import FromConfig, config_of_workdir
from jaxlm.config import Config
from jaxlm.data import sources
from jaxlm.data.sources import with_source
from jaxlm.evaluation import stills, video_report
from jaxlm.evaluation.report import table, write_report
from jaxlm.evaluation.videos import evaluate_videos, tune_average
from jaxlm.predict.follower import Follower
from jaxlm.predict.model import TrainedModel, is_shipped, load_model, predict_of


def evaluate_workdir(
    config: Config,
    workdir: str | Path,
    *,
    data: str | None = None,
    root: str | None = None,
    step: int | str | None = None,
    out: str | Path | None = None,
) -> list[Path]:
    """Evaluates a model on `data`, or on every set of `config.eval.sets`; prints tables, writes JSON and plots.

    Args:
        config: of the model.
        workdir: the model, see `jaxlm.predict.model.load_model`.
        data: "source" or "source:split" of `config.data.sources`, or a builder's name together with `root`.
        root: the files of that data set.
        step: of the checkpoint; the last one where it is None.
        out: folder of the results; `<workdir>/eval` where it is None and the workdir is a folder.

    Returns:
        The JSON files.

    Raises:
        ValueError: for a data set, split or checkpoint that does not exist; for a model without a folder of its own,
            if `out` is None.
    """
    model, place = load_model(workdir, step=step, config=config), Path(workdir).expanduser()
    if out is None and (not place.is_dir() or is_shipped(place)):
        raise ValueError(f"{workdir} is no folder to write results into; name one with --out=FOLDER.")
    folder = place / "eval" if out is None else Path(out).expanduser()
    sets = list(config.eval.sets) if data is None else [data]
    if root is not None:
        if data is None:
            raise ValueError("--root goes with --data naming a builder, as in --data=own --root=faces.csv.")
        config = with_source(config, data.partition(":")[0], root)
    model = model._replace(config=config)
    written = []
    for name in sets:
        suffix = f"_{Path(root).resolve().stem}" if root else ""
        evaluate_set = _evaluate_videos if sources.holds_videos(config, name.partition(":")[0]) else _evaluate_stills
        written += evaluate_set(model, name, folder, suffix)
    return written


def _evaluate_stills(model: TrainedModel, name: str, folder: Path, suffix: str) -> list[Path]:
    config, source = model.config, sources.open_set(model.config, name)
    predict, halves = predict_of(model)
    result = stills.evaluate(predict, model.variables, source, config, halves=halves, show_progress=True)
    label = f"{source.name}_{source.split}{suffix}"
    print(f"\n{table(result, config, f'{label}{_at(model.step)}')}")
    path = write_report(folder, label, result, source, config, model.step)
    print(f"written: {path}, {label}_ced.png, {label}_faces.png")
    return [path]


def _at(step: int | None) -> str:
    return "" if step is None else f" at step {step}"


def _evaluate_videos(model: TrainedModel, name: str, folder: Path, suffix: str) -> list[Path]:
    config, variables = model.config, model.variables
    if variables is None:
        raise ValueError(f"{model.name} is a graph of single pictures; videos need a workdir or exported parameters.")
    methods = config.video.methods if "video" in config else ()
    follower = Follower(variables, config, methods)
    reports: dict[str, Path] = {}
    for source in sources.open_videos(config, name):
        result = evaluate_videos(follower, source, config)
        label = f"{source.name}_{source.split}{suffix}"
        print(f"\n{video_report.table(result, config, f'{label}{_at(model.step)}')}")
        tuned = tune_average(result, source, config)
        if tuned is not None:
            print(
                f"frame+ema:{tuned.alpha:.3f} has the NMF of rwr ({tuned.nmf:.1f}) and NME {100 * tuned.nme:.3f} %; "
                f"the NME of rwr differs from it by {video_report.change_text(tuned.change)}"
            )
        elif {"frame", "rwr"} <= set(result.scores):
            print("No exponential average of the frame-wise landmarks has the NMF of rwr.")
        paths = video_report.write_report(folder, label, result, source, config, model.step, tuned)
        print(f"written: {', '.join(map(str, paths[:1]))}{''.join(f', {path.name}' for path in paths[1:])}")
        reports[source.split] = paths[0]
    plot = folder / f"{name.replace(':', '_')}{suffix}_accuracy_flicker.png"
    video_report.plot_accuracy_flicker(plot, {split: json.loads(path.read_text()) for split, path in reports.items()})
    print(f"written: {plot}")
    return list(reports.values())


@dataclasses.dataclass(frozen=True)
class Options:
    workdir: str
    """What `jaxlm train`, `jaxlm convert` or `jaxlm export` wrote, or one of `jaxlm models`."""
    data: str | None = None
    """source[:split] of the config, or of a builder (wflw, 300w, own, …) with --root."""
    root: str | None = None
    """The data set's files, where --data names a builder."""
    step: str = "last"
    """Checkpoint: last, best (on the first validation set) or its step."""
    out: str | None = None
    """Folder of the results; eval/ in the workdir without it."""
    config: FromConfig = None
    overrides: FromConfig = ()


read_config = config_of_workdir


def main(options: Options) -> list[Path]:
    """Evaluates and returns the JSON files."""
    chosen = {"data": options.data, "root": options.root, "step": options.step, "out": options.out}
    return evaluate_workdir(options.config, options.workdir, **chosen)

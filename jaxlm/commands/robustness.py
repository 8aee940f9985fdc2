"""Measures how well systems bear rough boxes: Tables 3 and 4 of Shao et al., TPAMI 2021.

    jaxlm robustness --workdirs runs/b1 runs/gsr --data=300w:heldout --out=runs/robustness

Table 4: the crop's box is enlarged by 10 to 50 %, moved by 5 to 25 % of the face box in a random direction, or the
picture is turned by 5° to 25°. Table 3: the face is cropped by the box around its landmarks, by the data set's own box
and by that of OpenCV's detector (where it misses a face, by the data set's own, as in the paper).
"""

import dataclasses
import json
from pathlib import Path

from jaxlm.data import sources
from jaxlm.data.sources import with_source
from jaxlm.evaluation.robustness import AMOUNTS, TITLES, Robustness, face_boxes, markdown, measure
from jaxlm.schemes import get_scheme
from jaxlm.support import drawing, files
from jaxlm.support.files import write_atomically
from jaxlm.support.program import split_commas
from jaxlm.workdir.config_file import load_config
from jaxlm.workdir.restore import restore_variables


def run(workdirs: list[Path], data: str | None, out: Path, root: str | None = None) -> dict[str, Robustness]:
    """Measures every workdir on the same faces; writes `robustness.md`, `.json` and `.png` in `out`.

    Args:
        workdirs: of trained systems with one landmark scheme.
        data: "source" or "source:split" of the first workdir's config; its first evaluation set where it is None.
        out: folder to write.
        root: the files of that data set, `data` being a builder's name.

    Raises:
        ValueError: for a workdir, data set or scheme that does not fit.
    """
    configs = [load_config(workdir) for workdir in workdirs]
    schemes = [get_scheme(config.scheme) for config in configs]
    if any(scheme != schemes[0] for scheme in schemes):
        raise ValueError(f"The workdirs have different schemes: {', '.join(scheme.name for scheme in schemes)}.")
    if len({workdir.name for workdir in workdirs}) < len(workdirs):
        raise ValueError("Two workdirs have the same name, which the tables go by; rename one.")
    first = configs[0]
    if root is not None:
        if data is None:
            raise ValueError("--root goes with --data naming a builder, as in --data=own --root=faces.csv.")
        first = with_source(first, data.partition(":")[0], root)
    if data is None and not first.eval.sets:
        raise ValueError(f"{workdirs[0]} has no eval.sets; choose a data set by --data.")
    source = sources.open_set(first, data or first.eval.sets[0])
    faces = face_boxes(source)
    results = {}
    for workdir, config in zip(workdirs, configs, strict=True):
        print(f"{workdir.name}: crop {config.data.crop}, {config.image_size} pixels")
        config.data.normalizer, config.seed = first.data.normalizer, first.seed  # the same perturbations for all
        variables, _ = restore_variables(config, workdir)
        results[workdir.name] = measure(variables, config, source, faces)
    title = f"NME (%), {first.data.normalizer}, {len(source)} faces of {source.name}:{source.split}"
    text = markdown(results, title)
    out.mkdir(parents=True, exist_ok=True)
    report = {"title": title, "amounts": AMOUNTS, "results": {name: r._asdict() for name, r in results.items()}}
    write_atomically(out / "robustness.md", text + "\n")
    write_atomically(out / "robustness.json", json.dumps(files.without_nan(report), indent=2) + "\n")
    curves = {kind: {name: result.perturbed[kind] for name, result in results.items()} for kind in AMOUNTS}
    drawing.plot_curves(out / "robustness.png", curves, AMOUNTS, TITLES, "NME (%)")
    print(f"\n{text}\n\nwritten: {out}/robustness.md, robustness.json, robustness.png")
    return results


@dataclasses.dataclass(frozen=True)
class Options:
    workdirs: tuple[str, ...]
    """Trained workdirs, compared on the same faces."""
    out: str
    """Folder for the tables and the plot."""
    data: str | None = None
    """source[:split]; the first evaluation set without it."""
    root: str | None = None
    """The data set's files, where --data names a builder."""


def main(options: Options) -> dict[str, Robustness]:
    """Measures the workdirs and returns their errors, see `run`."""
    workdirs = [Path(name).expanduser() for name in split_commas(options.workdirs)]
    return run(workdirs, options.data, Path(options.out).expanduser(), options.root)

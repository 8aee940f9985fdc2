"""Exports a trained model: parameters (Orbax), StableHLO for CPU, CUDA and TPU, ONNX.

    jaxlm export --workdir=runs/ldeq --format=orbax,stablehlo,onnx --out=exported

Beside each form stands a JSON that says what goes in, what comes out, which crop the model was trained on, and how far
the export is from the model on real crops; nothing is written that is further than `--tolerance`. Graphs take any batch
and have their batch norms folded.
"""

import dataclasses

from jaxlm.export.forms import FILES, FORMATS, check_crops, export_model
from jaxlm.predict.model import load_model
from jaxlm.support.program import make_folder, split_commas


@dataclasses.dataclass(frozen=True)
class Options:
    workdir: str
    """Folder that `jaxlm train` or `jaxlm convert` wrote."""
    out: str = "exported"
    """Folder of the results."""
    format: tuple[str, ...] = ("orbax",)
    """orbax, stablehlo, onnx; several with commas."""
    step: str | None = None
    """Checkpoint: last, best or its step; the last one without it."""
    tolerance: float = 0.05
    """Largest difference of a landmark from the model, in pixels."""
    flip_average: bool = False
    """Average with the mirrored face, at twice the cost."""
    dtype: str = ""
    """Compute in float32 or bfloat16; as it was trained without it."""
    batch: int = 0
    """Number of crops that a graph takes, which is faster with ONNX; any number for 0."""
    unroll: bool = False
    """LDEQ: all steps of the solver one after the other, without a loop, which is faster with ONNX."""


def main(options: Options) -> dict[str, float]:
    """Exports and returns format -> largest difference of a landmark from the model, in pixels."""
    formats = split_commas(options.format)
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(f"There is no format {unknown[0]!r}; choose of {', '.join(FORMATS)}.")
    model = load_model(options.workdir, step=options.step)
    if model.variables is None:
        raise ValueError(f"{options.workdir} is a graph already; name the workdir that it was made of.")
    config = model.config
    config.eval.flip_average = options.flip_average
    if options.flip_average and config.eval.get("full_picture"):
        config.eval["full_picture"] = False
    if options.dtype and "dtype" in config.model:
        config.model.dtype = options.dtype
    if options.unroll and "solver" not in config:
        raise ValueError(f"{options.workdir} has no solver that could be unrolled; leave --unroll out.")
    if options.batch < 0:
        raise ValueError(f"--batch must be 0 or more, got {options.batch}.")
    out, checked_on, differences = make_folder(options.out), check_crops(config), {}
    for name in formats:
        if "solver" in config:
            config["solver"].unroll = options.unroll and name != "orbax"
        differences[name] = export_model(
            config, model.variables, out, name, checked_on, options.tolerance, options.batch
        )
        path = out / FILES[name]
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files) / 1e6
        print(
            f"written: {path} ({size:.1f} MB): at most {differences[name]:.2g} pixels from the model "
            f"on {len(checked_on.images)} crops of {checked_on.source}"
        )
    return differences

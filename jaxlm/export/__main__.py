"""FIXME Trained models for use elsewhere: parameters (Orbax), StableHLO for CPU, CUDA and TPU, ONNX."""

from pathlib import Path

from absl import app, flags

from jaxlm.export.forms import FORMATS, check_crops, export_model
from jaxlm.predict.model import ONNX, PARAMETERS, STABLEHLO, load
from jaxlm.support.program import make_folder, one_sentence, parse_flags, quiet_logs


def main(argv: list[str]) -> None:
    quiet_logs()
    with one_sentence():
        if len(argv) > 1:
            raise ValueError(f"{argv[1]} is no option; the model is named by --workdir.")
        unknown = [name for name in FORMAT.value if name not in FORMATS]
        if unknown:
            raise ValueError(f"There is no format {unknown[0]!r}; choose of {', '.join(FORMATS)}.")
        model = load(WORKDIR.value, step=STEP.value)
        if model.variables is None:
            raise ValueError(f"{WORKDIR.value} is a graph already; name the workdir that it was made of.")
        config, variables = model.config, model.variables
        config.eval.flip_average = FLIP_AVERAGE.value
        if FLIP_AVERAGE.value and config.eval.get("full_picture"):
            config.eval.full_picture = False
        if DTYPE.value and "dtype" in config.model:
            config.model.dtype = DTYPE.value
        out, checked_on = make_folder(Path(OUT.value).expanduser()), check_crops(config)
        for name in FORMAT.value:
            difference = export_model(config, variables, out, name, checked_on, TOLERANCE.value)
            path = out / {"orbax": PARAMETERS, "stablehlo": STABLEHLO, "onnx": ONNX}[name]
            files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            size = sum(file.stat().st_size for file in files) / 1e6
            print(
                f"written: {path} ({size:.1f} MB): at most {difference:.2g} pixels from the model "
                f"on {len(checked_on.images)} crops of {checked_on.source}"
            )


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder that train.py or jaxlm.convert wrote.", required=True)
    OUT = flags.DEFINE_string("out", "exported", "Folder of the results.")
    FORMAT = flags.DEFINE_list("format", ["orbax"], f"Of {', '.join(FORMATS)}; several with commas.")
    STEP = flags.DEFINE_string("step", None, "Checkpoint: last, best or its step; the last one.")
    TOLERANCE = flags.DEFINE_float("tolerance", 0.05, "Largest difference of a landmark from the model, in pixels.")
    FLIP_AVERAGE = flags.DEFINE_bool("flip_average", False, "Average with the mirrored face, at twice the cost.")
    DTYPE = flags.DEFINE_string("dtype", "", "Computes in float32 or bfloat16; as it was trained where not given.")
    app.run(main, flags_parser=parse_flags)

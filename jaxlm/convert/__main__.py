"""FIXME Released weights into a workdir that train.py, eval.py, prediction and export take like any other."""

from collections.abc import Callable
from pathlib import Path

from absl import app, flags

from jaxlm.config import Config, load_config_file
from jaxlm.convert.dpr import convert_dpr
from jaxlm.convert.tddfa_v2 import convert_tddfa
from jaxlm.support.program import one_sentence, quiet_logs
from jaxlm.systems import TrainState
from jaxlm.workdir.checkpoints import Checkpoints
from jaxlm.workdir.config_file import checkpoint_exists, write_config

CONVERTERS: dict[str, tuple[str, Callable[[Path, Config], tuple[Config, TrainState]]]] = {
    "dpr": ("reinit_wflw.py:released", convert_dpr),
    "tddfa_v2": ("tddfa_300wlp.py:released", convert_tddfa),
}


def convert(name: str, files: Path, workdir: Path, config: Config | None = None) -> Config:
    """Writes a workdir with the released weights as its checkpoint of step 0.

    Args:
        name: key of `CONVERTERS`.
        files: folder of the released files.
        workdir: to write; must not hold checkpoints.
        config: to use instead of the repository's for these weights.

    Returns:
        The config.

    Raises:
        ValueError: for an unknown name, files that do not fit, or a workdir that is in use.
    """
    if name not in CONVERTERS:
        raise ValueError(f"There is no converter {name!r}; choose one of {', '.join(CONVERTERS)}.")
    if checkpoint_exists(workdir):
        raise ValueError(f"{workdir} holds checkpoints already; choose another --workdir.")
    config_file, converter = CONVERTERS[name]
    config, state = converter(files, config or load_config_file(config_file))
    write_config(workdir, config)
    checkpoints = Checkpoints(workdir)
    try:
        checkpoints.save(0, state, {}, {})
    finally:
        checkpoints.close()
    return config


def main(argv):
    quiet_logs()
    with one_sentence():
        if len(argv) != 3:
            raise ValueError(f"Usage: python -m jaxlm.convert <{'|'.join(CONVERTERS)}> <folder> --workdir=<folder>")
        workdir = Path(WORKDIR.value).expanduser()
        config = convert(argv[1], Path(argv[2]).expanduser(), workdir)
        model = ", ".join(f"{name} {config.model[name]}" for name in ("backbone", "refine") if name in config.model)
        print(f"written: {workdir} ({config.system}, {config.scheme}, {model})")


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder to write.", required=True)
    app.run(main)

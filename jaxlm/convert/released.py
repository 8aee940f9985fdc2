"""Released weights of other code, as a workdir of this package."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxlm.config import Config, load_config_file
from jaxlm.convert.dpr import convert_dpr
from jaxlm.convert.ldeq import convert_ldeq
from jaxlm.convert.tddfa_v2 import convert_tddfa
from jaxlm.systems import TrainState
from jaxlm.workdir.checkpoints import Checkpoints
from jaxlm.workdir.config_file import checkpoint_exists, write_config

CONVERTERS: dict[str, tuple[str, Callable[[Path, Any], tuple[Any, TrainState]]]] = {
    "dpr": ("reinit_wflw:released", convert_dpr),
    "ldeq": ("ldeq_wflw:released", convert_ldeq),
    "tddfa_v2": ("tddfa_300wlp:released", convert_tddfa),
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
    converted, state = converter(files, config or load_config_file(config_file))
    write_config(workdir, converted)
    checkpoints = Checkpoints(workdir)
    try:
        checkpoints.save(0, state, {}, {})
    finally:
        checkpoints.close()
    return converted

"""Converts released weights into a workdir that evaluation, prediction, training and export take like any other.

    jaxlm convert dpr weights/ --workdir=runs/dpr
    jaxlm eval --workdir=runs/dpr --data=own --root=wflw_samples
    jaxlm convert tddfa_v2 tddfa_v2/ --workdir=runs/mb05
    jaxlm eval --workdir=runs/mb05 --data=aflw2000 --root=AFLW2000

`dpr` is the GSRω of Shao et al., TPAMI 2021, for WFLW (see `jaxlm.convert.dpr`), `ldeq` the LDEQ of Micaelli et al.,
CVPR 2023 (see `jaxlm.convert.ldeq`), `tddfa_v2` a MobileNet of Guo et al., ECCV 2020 (see `jaxlm.convert.tddfa_v2`).
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from jaxlm.convert.released import convert
from jaxlm.schemes import get_scheme


@dataclasses.dataclass(frozen=True)
class Options:
    name: Positional[Literal["dpr", "ldeq", "tddfa_v2"]]
    """Which release."""
    files: Positional[str]
    """Folder of its files."""
    workdir: str
    """Folder to write."""


def main(options: Options) -> Any:
    """Writes the workdir and returns its config."""
    workdir = Path(options.workdir).expanduser()
    config = convert(options.name, Path(options.files).expanduser(), workdir)
    model = ", ".join(
        f"{name} {config.model[name]}" for name in ("preset", "backbone", "refine") if name in config.model
    )
    print(f"written: {workdir} ({config.system}, {get_scheme(config.scheme).name}, {model})")
    return config

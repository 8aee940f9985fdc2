"""Measures dense 3D errors of a 3DDFA_V2: on AFLW2000-3D's vertices and on scans. Table 2 of Guo et al., ECCV 2020.

    jaxlm dense --workdir=runs/tddfa --aflw2000=AFLW2000
    jaxlm dense --workdir=runs/tddfa --scans=florence

The protocols are described in `jaxlm.evaluation.dense`. Writes `dense.json` into the workdir.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxlm.evaluation.dense import evaluate_aflw2000, evaluate_scans
from jaxlm.predict.faces3d import Reconstructor
from jaxlm.support.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Options:
    workdir: str
    """Folder that `jaxlm train` or `jaxlm convert` wrote."""
    aflw2000: str | None = None
    """AFLW2000-3D as published."""
    scans: str | None = None
    """Folder of .obj scans."""
    step: str = "last"
    """Checkpoint: last, best or its step."""


def main(options: Options) -> dict[str, dict[str, Any]]:
    """Measures and returns a report for each data set."""
    if not options.aflw2000 and not options.scans:
        raise ValueError("Name --aflw2000, the folder of AFLW2000-3D, or --scans, a folder of .obj files.")
    workdir = Path(options.workdir).expanduser()
    reconstructor, report = Reconstructor(workdir, options.step), {}
    if options.aflw2000:
        report["aflw2000_dense"] = evaluate_aflw2000(reconstructor, options.aflw2000).report()
    if options.scans:
        report["scans"] = evaluate_scans(reconstructor, Path(options.scans).expanduser()).report()
    for name, row in report.items():
        bins = ", ".join(f"{subset} {value:.3f}" for subset, value in row["subsets"].items())
        print(f"{name}: NME {row['nme']:.3f} % of {row['count']} faces, {row['vertices']} vertices ({bins})")
    write_atomically(workdir / "dense.json", json.dumps(report, indent=2) + "\n")
    print(f"written: {workdir}/dense.json")
    return report

"""FIXME Dense 3D error: AFLW2000-3D's own vertices, and scans as of Florence after an alignment. Table 2 of Guo et al."""

import json
from pathlib import Path

from absl import app, flags

from jaxlm.evaluation.dense import evaluate_aflw2000, evaluate_scans
from jaxlm.predict.faces3d import Reconstructor
from jaxlm.support.files import write_atomically
from jaxlm.support.program import one_sentence, quiet_logs


def main(argv):
    del argv
    quiet_logs()
    with one_sentence():
        if not AFLW2000.value and not SCANS.value:
            raise ValueError("Name --aflw2000, the folder of AFLW2000-3D, or --scans, a folder of .obj files.")
        workdir = Path(WORKDIR.value).expanduser()
        reconstructor, report = Reconstructor(workdir, STEP.value), {}
        if AFLW2000.value:
            report["aflw2000_dense"] = evaluate_aflw2000(reconstructor, AFLW2000.value).report()
        if SCANS.value:
            report["scans"] = evaluate_scans(reconstructor, Path(SCANS.value).expanduser()).report()
        for name, row in report.items():
            bins = ", ".join(f"{subset} {value:.3f}" for subset, value in row["subsets"].items())
            print(f"{name}: NME {row['nme']:.3f} % of {row['count']} faces, {row['vertices']} vertices ({bins})")
        write_atomically(workdir / "dense.json", json.dumps(report, indent=2) + "\n")
        print(f"written: {workdir}/dense.json")


if __name__ == "__main__":
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder that train.py or jaxlm.convert wrote.", required=True)
    AFLW2000 = flags.DEFINE_string("aflw2000", "", "Folder of AFLW2000-3D.")
    SCANS = flags.DEFINE_string("scans", "", "Folder of .obj files.")
    STEP = flags.DEFINE_string("step", "last", "Checkpoint: last, best or its step.")
    app.run(main)

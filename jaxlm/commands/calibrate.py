"""Measures what a model's scores mean, for expected errors and to tell faces from other things.

    jaxlm calibrate --workdir=runs/ldeq --data=300w:validation
    jaxlm calibrate --workdir=exported --data=own --root=faces.csv --plot=reliability.png

Writes `calibration.json` into the model's folder, where `jaxlm predict` and `Predictor` find it: faces of pictures then
have `expected_error` and `probability`, and detections that are surely none are left out. It holds for the checkpoint
that it was measured on; calibrate an export after it was written. The pictures must be whole, so that other things than
faces are seen, and should be like those of later use, but not those of the training. The model's scores must come from
heatmaps.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data.sources import open_set, with_source
from jaxlm.evaluation.calibration import check, fit, observe
from jaxlm.predict.predictor import Predictor
from jaxlm.predict.scores import CALIBRATION
from jaxlm.schemes import get_scheme
from jaxlm.support import drawing
from jaxlm.support.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Options:
    workdir: str
    """Folder that `jaxlm train` or `jaxlm export` wrote."""
    data: str
    """source[:split] of the model's config, or a builder with --root."""
    root: str | None = None
    """The data set's files, where --data names a builder."""
    scheme: str | None = None
    """Landmarks of the data set, where a model of faces98 is calibrated on faces68."""
    plot: str | None = None
    """PNG file: expected against measured errors."""


def main(options: Options) -> dict[str, Any]:
    """Writes the calibration, prints how well it holds and returns that, see `jaxlm.evaluation.calibration.check`."""
    folder = Path(options.workdir).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: name what jaxlm train or jaxlm export wrote.")
    predictor = Predictor.load(folder, batch_size=32)
    config = predictor.config.copy_and_resolve_references()
    config.scheme = options.scheme or config.scheme
    if options.root is not None:
        config = with_source(config, options.data.partition(":")[0], options.root)
    source = open_set(config, options.data)
    seen = observe(predictor, source)
    scheme = get_scheme(predictor.config.scheme)
    fitted, checked = fit(seen, scheme), check(seen, scheme)
    held = {
        "weights": np.round(fitted.weights, 5).tolist(),
        "power": round(fitted.power, 5),
        "step": predictor.model.step,
        "face": [round(value, 5) for value in fitted.face],
        "measured": {"data": f"{source.name}:{source.split}", **checked},
    }
    write_atomically(folder / CALIBRATION, json.dumps(held) + "\n")
    print(f"{checked['faces']} faces of {source.name}:{source.split}, {checked['others']} boxes without a face;")
    print("each half judged by the calibration of the other half")
    print(f"{'expected error %':>18}{'measured %':>14}")
    for expected, measured in checked["bins"]:
        print(f"{expected:>18.2f}{measured:>14.2f}")
    print(f"rank correlation with the true error: landmarks {checked['rank_landmarks']:.3f}, ", end="")
    print(f"faces {checked['rank_faces']:.3f}")
    print(f"faces kept {100 * checked['kept']:.1f} %, other boxes rejected {100 * checked['rejected']:.1f} %, ", end="")
    print(f"area under the ROC curve {checked['area']:.4f}")
    if options.plot:
        with drawing.figure(Path(options.plot).expanduser(), size=(4.2, 4.2)) as (axes,):
            expected, measured = np.array(checked["bins"]).T
            axes.plot([0, expected.max()], [0, expected.max()], color="0.7", linewidth=1)
            axes.plot(expected, measured, marker="o")
            axes.set(xlabel="expected error (% of the inter-ocular distance)", ylabel="measured error (%)")
    print(f"written: {folder / CALIBRATION}")
    return checked

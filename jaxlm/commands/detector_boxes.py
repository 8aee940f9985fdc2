"""Measures how a detector's boxes differ from those around the landmarks, for `config.augment.box`.

    jaxlm detector-boxes --config=reinit_300w --data=300w:train
    jaxlm detector-boxes --config=reinit_300w --data=300w:train --detector=haar

Prints the eight numbers of `config.augment.box`, of the boxes that the data set gives or of a detector's.
"""

import dataclasses
from typing import Literal

from jaxlm.commands.options import FromConfig, config_of_file
from jaxlm.data import sources
from jaxlm.evaluation.detector_boxes import BoxOffsets, measure
from jaxlm.predict.detectors import HaarDetector


@dataclasses.dataclass(frozen=True)
class Options:
    data: str
    """source[:split] of config.data.sources."""
    detector: Literal["given", "haar"] = "given"
    """Whose boxes: the data set's, or OpenCV's detector's."""
    limit: int = 0
    """Number of faces, about; 0 for all."""
    config: FromConfig = None
    overrides: FromConfig = ()


read_config = config_of_file


def main(options: Options) -> BoxOffsets:
    """Measures, prints and returns the offsets."""
    source = sources.open_set(options.config, options.data)
    found = measure(source, HaarDetector() if options.detector == "haar" else None, options.limit)
    print(f"{len(found.values)} faces of {source.name}:{source.split}, {found.missed} missed by the detector")
    print(f"--config.augment.box={found.distribution()}")
    return found

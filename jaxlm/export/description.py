"""The JSON beside an exported model: its input, its outputs and its crop."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from jaxlm.config import Config
from jaxlm.data import crops
from jaxlm.schemes import get_scheme


def describe(
    config: Config, format: str, outputs: Mapping[str, tuple[str, list[int]]], batch: int = 0
) -> dict[str, Any]:
    """Input, output and crop of an export, for its users.

    Args:
        config: of the exported experiment.
        format: of the export.
        outputs: name -> (meaning, shape of one sample) of the arrays that the model returns.
        batch: number of samples that it takes, 0 for any.
    """
    scheme, size = get_scheme(config.scheme), config.image_size
    return {
        "format": format,
        "jaxlm": importlib.metadata.version("jaxlm"),
        "system": config.system,
        "scheme": scheme.name,
        "landmarks": list(scheme.names),
        "input": {
            "name": "images",
            "shape": [batch or "batch", size, size, 3],
            "type": "float32",
            "values": "RGB from 0 to 255; the model does its own normalisation",
        },
        "outputs": [
            {"name": name, "shape": [batch or "batch", *shape], "meaning": meaning}
            for name, (meaning, shape) in outputs.items()
        ],
        "preprocessing": {
            "crop": config.data.crop,
            "crop_means": " ".join((crops.PROTOCOLS[config.data.crop].__doc__ or "").split()),
            "resampling": "bilinear, black outside the picture, averaged first where the picture is more than twice "
            "as fine as the crop",
            "boxes": "around the landmarks; a detector's box is rough, so run, take the box around the landmarks that "
            "were found, and run again, twice",
            "map": f"crop = (picture - corner) * {size} / side - 0.5, with the crop's upper left corner and its side "
            "in the picture's pixels, whose centres are integers; x and y alike, but for the crop dpr, which stretches "
            "its box",
        },
        "postprocessing": f"picture = (crop + 0.5) * side / {size} + corner",
        "flip_average": bool(config.eval.flip_average),
        "lines": {line.name: {"points": list(line.points), "closed": line.closed} for line in scheme.lines},
        "flip": scheme.flip.tolist(),
    }

"""The JSON beside an exported model: its input, its outputs and its crop."""

import importlib.metadata
from typing import Any

from jaxlm.config import Config
from jaxlm.data import crops
from jaxlm.schemes import get_scheme


def output_names(config: Config) -> tuple[str, ...]:
    """Of a graph: the landmarks, their scores and, of a 3D face, its parameters."""
    return ("landmarks", "score", "params") if config.system == "tddfa" else ("landmarks", "score")


def describe(config: Config, format: str) -> dict[str, Any]:
    """What a program must know that feeds the model and reads what it gives."""
    scheme, size = get_scheme(config.scheme), config.image_size
    outputs = {
        "landmarks": (
            ["batch", scheme.num_landmarks, 2],
            "x, y in pixels of the input, (0, 0) its first pixel's centre",
        ),
        "score": (["batch", scheme.num_landmarks], "in (0, 1], higher where a landmark is surer"),
        "params": (["batch", "parameters"], "of the 3D face, in the frame of the crop: see jaxlm/face3d/parameters.py"),
    }
    return {
        "format": format,
        "jaxlm": importlib.metadata.version("jaxlm"),
        "system": config.system,
        "scheme": config.scheme,
        "input": {
            "name": "images",
            "shape": ["batch", size, size, 3],
            "type": "float32",
            "values": "RGB from 0 to 255; the model does its own normalisation",
        },
        "outputs": [
            {"name": name, "shape": outputs[name][0], "meaning": outputs[name][1]} for name in output_names(config)
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

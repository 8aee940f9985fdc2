"""Trained models for use elsewhere: parameters (Orbax), StableHLO for CPU, CUDA and TPU, ONNX.

Each form has a JSON beside it with its input, its output, its crop, and its largest difference from the model on real
crops. Nothing is written whose difference is above the tolerance. Graphs take any batch and have their batch norms
folded. The command is `jaxlm export`.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from jaxlm import geometry, systems
from jaxlm.config import Config
from jaxlm.data import batches, crops, sources
from jaxlm.data.rendered import faces
from jaxlm.export.description import describe
from jaxlm.export.folding import fold_batch_norms
from jaxlm.export.onnx_graph import to_onnx
from jaxlm.predict.model import CHECKSUMS, ONNX, PARAMETERS, STABLEHLO, call_graph, load_model, write_parameters
from jaxlm.predict.scores import CALIBRATION
from jaxlm.schemes import FACES68_OF_FACES98
from jaxlm.support.errors import BadSample
from jaxlm.support.files import checksums, write_atomically, write_bytes_atomically
from jaxlm.support.pictures import warp
from jaxlm.workdir.config_file import write_config

# Format -> the folder or file that it is written to.
FILES = {"orbax": PARAMETERS, "stablehlo": STABLEHLO, "onnx": ONNX}
FORMATS = tuple(FILES)
PLATFORMS = ("cpu", "cuda", "tpu")
_CROPS = 8


class Crops(NamedTuple):
    """What an export is checked on.

    Attributes:
        images: (N, S, S, 3) float32 in [0, 255].
        source: where they come from, in words.
    """

    images: np.ndarray
    source: str


def check_crops(config: Config, count: int = _CROPS) -> Crops:
    """Crops of the first set that the config evaluates on; of rendered faces where its files are not here."""
    for name in config.eval.sets:
        if config.data.sources[name.partition(":")[0]].builder == "rendered":
            break  # no need to render a whole data set
        try:
            source = sources.open_set(config, name)
        except (ValueError, OSError, BadSample):
            continue
        batch = next(iter(batches.eval_batches(source, config, min(count, len(source)))))
        return Crops(batch["image"].astype(np.float32), name)
    images = []
    for face in faces.photographs(config.seed, 20_000_000, count, 2 * config.image_size):
        points = face["landmarks"][FACES68_OF_FACES98]
        box = crops.crop_box(config.data.crop, points=points)
        transform = geometry.box_to_crop(box, config.image_size)
        images.append(warp(face["image"], transform, config.image_size))
    return Crops(np.stack(images).astype(np.float32), "rendered faces")


def inference(config: Config) -> Callable[[Any, Any], tuple[Any, ...]]:
    """(variables, images (B, S, S, 3)) -> the arrays of `System.outputs`, as `System.predict` computes them."""
    system = systems.build(config)

    def run(variables: Any, images: Any) -> tuple[Any, ...]:
        prediction = system.predict(variables, images)
        held = {"landmarks": prediction.landmarks, "score": prediction.score, **prediction.aux}
        return tuple(held[name] for name in system.outputs)

    return run


def graph(config: Config, variables: Any) -> Callable[[Any], tuple[Any, ...]]:
    """images (B, S, S, 3) -> the arrays of `System.outputs`, with folded batch norms and variables inside."""
    shape = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), np.float32)
    return fold_batch_norms(inference(config), variables, shape)


def spec_of(config: Config, batch: int = 0) -> jax.ShapeDtypeStruct:
    """Images of a batch of the given size; of any size for 0."""
    size = batch or export.symbolic_shape("batch")[0]
    return jax.ShapeDtypeStruct((size, config.image_size, config.image_size, 3), np.float32)


def make_stablehlo(config: Config, variables: Any, batch: int = 0) -> bytes:
    """`jax.export`'s own serialisation of the graph, for `PLATFORMS`."""
    exported = export.export(jax.jit(graph(config, variables)), platforms=PLATFORMS)(spec_of(config, batch))
    return bytes(exported.serialize())


def make_onnx(config: Config, variables: Any, batch: int = 0) -> bytes:
    """The graph as ONNX; loops stay loops.

    Raises:
        ValueError: if jax2onnx is missing, or the network computes in bfloat16.
    """
    if config.model.get("dtype", "float32") != "float32":
        raise ValueError(
            f"ONNX Runtime does not compute in {config.model.dtype} on a CPU: add --dtype=float32, "
            "as the parameters are anyway."
        )
    names = tuple(systems.build(config).outputs)
    return to_onnx(graph(config, variables), spec_of(config, batch), input_name="images", output_names=names)


def export_model(
    config: Config,
    variables: Any,
    folder: Path,
    format: str,
    checked_on: Crops,
    tolerance: float = 0.05,
    batch: int = 0,
) -> float:
    """Writes one form of a model and its description, after a look whether it does what the model does.

    Args:
        config: of the workdir.
        variables: of a checkpoint.
        folder: of the results, which is made where it does not exist.
        format: of `FORMATS`.
        checked_on: crops to compare on.
        tolerance: largest difference of a landmark, in pixels of the crop.
        batch: number of crops that a graph takes; 0 for any number.

    Returns:
        The largest difference of a landmark on the crops, in their pixels.

    Raises:
        ValueError: for another format, or if the difference is larger; nothing is written then.
    """
    if format not in FORMATS:
        raise ValueError(f"There is no format {format!r}; choose of {', '.join(FORMATS)}.")
    if (folder / "checkpoints").exists():
        raise ValueError(f"{folder} is a workdir, whose config an export would replace; choose another --out.")
    if format != "orbax" and config.eval.get("full_picture"):
        # A graph sees the crop alone.
        config = config.copy_and_resolve_references()
        config.eval["full_picture"] = False
    # Each of these may take minutes for a large model.
    print(f"{format}: compiling the model and running it on {len(checked_on.images)} crops", flush=True)
    answers = jax.device_get(jax.jit(inference(config))(variables, checked_on.images))
    expected = np.asarray(answers[0])
    folder.mkdir(parents=True, exist_ok=True)
    if format == "orbax":
        path = folder / FILES[format]
        print(f"{format}: writing the parameters and running them", flush=True)
        difference = _write_parameters(config, variables, folder, checked_on, expected, tolerance)
    else:
        make = make_onnx if format == "onnx" else make_stablehlo
        print(f"{format}: making the graph", flush=True)
        content, path = make(config, variables, batch), folder / FILES[format]
        print(f"{format}: running the graph ({len(content) / 1e6:.1f} MB)", flush=True)
        found = call_graph(content, path, batch)(checked_on.images)[0]
        difference = _compare(expected, found, tolerance, format)
        write_bytes_atomically(path, lambda file: file.write(content))
    meanings = systems.build(config).outputs.items()
    outputs = {name: (text, list(array.shape[1:])) for (name, text), array in zip(meanings, answers, strict=True)}
    check = {"crops": f"{len(expected)} of {checked_on.source}", "largest_difference_pixels": difference}
    described = {**describe(config, format, outputs, batch), "check": check, "config": json.loads(config.to_json())}
    described[CHECKSUMS] = checksums(path)
    text = json.dumps(described, indent=1)
    write_atomically(path.with_name(path.name + ".json"), text + "\n")
    return difference


def _write_parameters(
    config: Config, variables: Any, folder: Path, checked_on: Crops, expected: np.ndarray, tolerance: float
) -> float:
    """Written beside their place, read back, compared, and only then put there."""
    partial = folder / ".parameters.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write_parameters(partial / PARAMETERS, variables)
        write_config(partial, config)
        found = load_model(partial).predict(checked_on.images).landmarks
        difference = _compare(expected, found, tolerance, "orbax")
        shutil.rmtree(folder / PARAMETERS, ignore_errors=True)
        (partial / PARAMETERS).rename(folder / PARAMETERS)
        write_config(folder, config)
        (folder / CALIBRATION).unlink(missing_ok=True)  # of other parameters
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return difference


def _compare(expected: np.ndarray, found: Any, tolerance: float, format: str) -> float:
    difference = float(np.abs(np.asarray(found) - expected).max())
    if not difference <= tolerance:
        raise ValueError(
            f"The {format} model differs from the trained one by {difference:.3g} pixels, more than {tolerance:g}; "
            "it was not written. Raise --tolerance if that is near enough for you."
        )
    return difference

"""Loads trained models: a workdir, exported parameters, StableHLO, ONNX, or the package's own model."""

import importlib.resources
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export

from jaxlm import systems
from jaxlm.config import Config
from jaxlm.predict.scores import Calibration, read_calibration
from jaxlm.predict.traced import traced_predict
from jaxlm.schemes import get_scheme
from jaxlm.support.files import check_checksums
from jaxlm.support.storage import fetch
from jaxlm.systems import Halves, Prediction
from jaxlm.workdir import config_file
from jaxlm.workdir.restore import abstract_state, restore_variables

SHIPPED = "faces68"  # the package's own model that is used by default
CARD = "card.json"  # what is known of a model of the package
PARAMETERS, STABLEHLO, ONNX = "parameters", "model.stablehlo", "model.onnx"  # names in an exported folder
CHECKSUMS = "sha256"  # key of the JSON beside one of these


class TrainedModel(NamedTuple):
    """A model that finds landmarks in crops.

    Attributes:
        config: config of its experiment, with scheme, image size and crop protocol.
        predict: images (B, S, S, 3) in [0, 255] -> Prediction in pixels of the images; jitted. For an exported graph,
            `aux` holds only "params", if the model has them.
        variables: parameters of the system, as `System.predict` takes them; None for a graph, which contains them.
        halves: `System.halves`, jitted, if the system has them and `config.eval.full_picture` is set; None otherwise.
        name: where the model was loaded from, for tables.
        step: of the checkpoint; None for an export.
        calibration: of the scores; None if `jaxlm calibrate` has not measured it.
    """

    config: Config
    predict: Callable[[Any], Prediction]
    variables: dict[str, Any] | None
    halves: Halves | None
    name: str
    step: int | None = None
    calibration: Calibration | None = None


def load_model(
    path: str | Path | None = None, *, step: int | str | None = None, config: Config | None = None
) -> TrainedModel:
    """Loads a trained model.

    Args:
        path: a workdir, a folder or file that `jaxlm.export` wrote, or the name of one of the package's own models
            (`shipped_models`); None for the default of these.
        step: checkpoint of a workdir, a number, "best" or "last"; the last one where it is None.
        config: to use instead of the model's own, with the same network; a graph keeps its network as it is.

    Raises:
        ValueError: if the model or its checkpoint does not exist, is incomplete or is damaged.
    """
    folder, name = _place(path)
    model = _load(folder, name, step, config)
    beside = folder.parent if folder.is_file() else folder
    count = get_scheme(model.config.scheme).num_landmarks
    return model._replace(calibration=read_calibration(beside, count, model.step))


def _load(folder: Path, name: str, step: int | str | None, config: Config | None) -> TrainedModel:
    if folder.is_file() and folder.suffix in (".stablehlo", ".onnx"):
        _check_no_step(folder, step)
        return _load_graph(folder, name, config)
    if folder.is_file():
        raise ValueError(f"{folder} is no model: name a workdir, an exported folder, a .stablehlo or a .onnx file.")
    trained = (folder / "checkpoints").is_dir()
    if not trained and (folder / PARAMETERS).is_dir():
        _check_no_step(folder, step)
        config = config or config_file.load_config(folder)
        return _with_variables(config, _read_parameters(folder / PARAMETERS, config), name)
    if not trained and _graphs(folder):
        _check_no_step(folder, step)
        return _load_graph(_graphs(folder)[0], name, config)
    config = config or config_file.load_config(folder)
    variables, number = restore_variables(config, folder, step)
    return _with_variables(config, variables, name)._replace(step=number)


def _check_no_step(place: Path, step: int | str | None) -> None:
    if step not in (None, "last"):
        raise ValueError(f"{place} is an export and has no checkpoint {step}; leave --step out.")


def _place(path: str | Path | None) -> tuple[Path, str]:
    """Folder or file of a model, and its name in tables."""
    place = shipped_folder() if path is None else fetch(path)
    if str(path) in shipped_models() and not place.exists():
        place = shipped_folder(str(path))
    if not place.exists():
        raise ValueError(
            f"{place} does not exist; name a workdir of jaxlm train, what jaxlm export wrote, or one of "
            f"the package's own models: {', '.join(shipped_models())}."
        )
    return place, f"the package's own {place.name}" if is_shipped(place) else str(path)


def config_of_model(path: str | Path) -> Config:
    """The config of a model in any form, see `load_model`."""
    folder, _ = _place(path)
    graph = folder.is_file() or (not (folder / "config.json").exists() and _graphs(folder))
    return load_model(path).config if graph else config_file.load_config(folder)


def _graphs(folder: Path) -> list[Path]:
    return [folder / graph for graph in (STABLEHLO, ONNX) if (folder / graph).is_file()]


def shipped_folder(name: str = SHIPPED) -> Path:
    """Folder of one of the package's own models."""
    return Path(str(importlib.resources.files("jaxlm") / "shipped" / name))


def is_shipped(folder: Path) -> bool:
    """Whether a folder is one of the package's own models."""
    return folder.resolve().parent == shipped_folder("").resolve()


def shipped_models() -> list[str]:
    """Names of the package's own models, the default first."""
    names = sorted(folder.parent.name for folder in shipped_folder("").glob("*/config.json"))
    return sorted(names, key=lambda name: name != SHIPPED)


def _with_variables(config: Config, variables: dict[str, Any], name: str) -> TrainedModel:
    traced = None if config.eval.get("full_picture") else traced_predict(config, variables)
    if traced is not None:
        return TrainedModel(config, traced, variables, None, name)
    predict, halves = jitted_predict(config)
    return TrainedModel(config, lambda images: predict(variables, images), variables, halves, name)


def jitted_predict(config: Config) -> tuple[Any, Halves | None]:
    """`System.predict`, and `System.halves` if `config.eval.full_picture` is set (None otherwise), both jitted."""
    system = systems.build(config)
    if system.halves is None or not config.eval.get("full_picture"):
        return jax.jit(system.predict), None
    halves = system.halves
    return jax.jit(system.predict), halves._replace(locate=jax.jit(halves.locate), regress=jax.jit(halves.regress))


def predict_of(model: TrainedModel) -> tuple[Callable[[Any, Any], Prediction], Halves | None]:
    """`jitted_predict` of a model in any form; that of a graph ignores its variables."""
    if model.variables is None:
        return lambda variables, images: model.predict(images), None
    return jitted_predict(model.config)


def write_parameters(folder: Path, variables: dict[str, Any]) -> None:
    """Writes variables with Orbax into a folder that does not exist yet."""
    import orbax.checkpoint as ocp  # what predicts with a graph starts faster without it

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.resolve(), jax.tree.map(np.asarray, variables))


def _read_parameters(folder: Path, config: Config) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    beside = folder.with_name(folder.name + ".json")
    described = _described(beside) if beside.is_file() else {}
    _check(folder, described)
    # The package's own models are checked by its tests; the parameters of others are compared with the network.
    fits = is_shipped(folder.parent) and _network(described.get("config")) == _network(json.loads(config.to_json()))
    abstract = None if fits else abstract_state(config).variables
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            if abstract is None:
                held: Any = checkpointer.metadata(folder.resolve())
                sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
                abstract = jax.tree.map(
                    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                    held.item_metadata.tree,
                )
            return checkpointer.restore(folder.resolve(), abstract)
    except Exception as error:  # Orbax has no exception type of its own for damaged files
        reason = (str(error).strip().splitlines() or [repr(error)])[0][:200]
        raise ValueError(f"{folder} does not fit its config.json ({reason}); export them again.") from None


def _network(config: Any) -> list[Any]:
    """What says which parameters a config's network has."""
    return [config.get(key) for key in ("system", "scheme", "image_size", "model")] if isinstance(config, dict) else []


def _described(beside: Path) -> dict[str, Any]:
    """The JSON beside an export.

    Raises:
        ValueError: if it is missing or damaged.
    """
    try:
        described = json.loads(beside.read_bytes())
    except FileNotFoundError:
        reason = f"it describes inputs and outputs of {beside.stem}"
        raise ValueError(f"{beside} is missing: {reason}; export the model again.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{beside} is damaged ({error!r}); export the model again.") from None
    if not isinstance(described, dict):
        raise ValueError(f"{beside} is damaged (no object); export the model again.")
    return described


def _check(path: Path, described: dict[str, Any]) -> None:
    """Compares an export with the checksums beside it; those of before jaxlm 0.3 have none."""
    expected = described.get(CHECKSUMS)
    if isinstance(expected, dict):
        check_checksums(path, expected, path.with_name(path.name + ".json"))


def _load_graph(path: Path, name: str, config: Config | None = None) -> TrainedModel:
    beside = path.with_name(path.name + ".json")
    described = _described(beside)
    try:
        config = config or config_file.config_from_json(described["config"])
        outputs = [output["name"] for output in described["outputs"]]
        batch = described["input"]["shape"][0]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{beside} is damaged ({error!r}); export the model again.") from None
    _check(path, described)
    call = call_graph(path.read_bytes(), path, batch if isinstance(batch, int) else 0)

    def predict(images) -> Prediction:
        found = dict(zip(outputs, call(np.asarray(images, np.float32)), strict=True))
        return Prediction(found.pop("landmarks"), found.pop("score"), found)

    return TrainedModel(config, predict, None, None, name)


def call_graph(content: bytes, path: Path, batch: int = 0) -> Callable[[np.ndarray], Any]:
    """Returns the function images (B, S, S, 3) -> outputs of an exported graph.

    Args:
        content: bytes of the file.
        path: of the file; the ending ".onnx" stands for ONNX, any other for StableHLO.
        batch: number of images that the graph takes, 0 for any; the function takes any number of them.

    Raises:
        ValueError: naming `path`, if the content cannot be read.
    """
    if path.suffix == ".onnx":
        session = onnx_session(content, str(path))
        return _in_batches(lambda images: session.run(None, {session.get_inputs()[0].name: images}), batch)
    try:
        exported = export.deserialize(bytearray(content))
    except Exception as error:  # flatbuffers has no exception type of its own for damaged files
        raise ValueError(f"{path} is not a StableHLO file that this JAX reads ({error}); export it again.") from None
    return _in_batches(jax.jit(exported.call), batch)


def _in_batches(call: Callable[[np.ndarray], Any], batch: int) -> Callable[[np.ndarray], Any]:
    """The function for any number of images of one that takes `batch` images."""
    if not batch:
        return call

    def run(images: np.ndarray) -> list[np.ndarray]:
        missing = -len(images) % batch
        padded = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
        parts = [call(padded[start : start + batch]) for start in range(0, len(padded), batch)]
        return [np.concatenate(outputs)[: len(images)] for outputs in zip(*parts, strict=True)]

    return run


def onnx_session(content: bytes, name: str, *, threads: int = 0) -> Any:
    """ONNX Runtime session of a model on the CPU.

    Args:
        content: bytes of the ONNX file.
        name: name of the model in messages.
        threads: number of threads; 0 for as many as there are cores.

    Raises:
        ValueError: if ONNX Runtime is not installed or cannot read the model.
    """
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise ValueError(f"{name} needs onnxruntime: pip install onnxruntime.") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exception classes are private
        reason = str(error).splitlines()[0][:200]
        raise ValueError(f"{name} is not a model that ONNX Runtime takes ({reason}); export it again.") from None

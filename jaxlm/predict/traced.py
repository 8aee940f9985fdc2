"""Predictions of a model whose traced program is kept on disk, beside the compiled ones.

Tracing the network takes longer than everything else of a command on one picture. The file depends on the package's
source, JAX, the device, the config and the shape of the images.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax import export
from jax.core import Tracer

import jaxlm
from jaxlm import systems
from jaxlm.config import Config
from jaxlm.support.files import write_bytes_atomically
from jaxlm.systems import Prediction

_MOST = 200  # files that are kept


def traced_predict(config: Config, variables: dict[str, Any]) -> Callable[[Any], Prediction] | None:
    """images (B, S, S, 3) -> Prediction, whose `aux` holds only what `System.outputs` names.

    None where compiled programs are not kept, and for a system that is not one of the package's or has a face model,
    whose file is part of the program.
    """
    folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if not folder or not systems.SYSTEMS.get(config.system, "").startswith("jaxlm.") or "morphable" in config:
        return None
    return _Traced(config, jax.device_put(variables), Path(folder) / "traced")


class _Traced:
    def __init__(self, config: Config, variables: dict[str, Any], folder: Path):
        self.config, self.variables, self.folder = config, variables, folder
        self._calls: dict[Any, Callable[..., Any]] = {}

    def __call__(self, images: Any) -> Prediction:
        key = (images.shape, str(images.dtype))
        if isinstance(images, Tracer):  # under grad or vmap, which an exported program does not know
            found = _outputs(systems.build(self.config), self.variables, images)
        else:
            if key not in self._calls:
                self._calls[key] = jax.jit(self._program(images))
            found = dict(self._calls[key](self.variables, images))
        return Prediction(found.pop("landmarks"), found.pop("score"), found)

    def _program(self, images: Any) -> Callable[..., Any]:
        """(variables, images) -> the arrays of `System.outputs`, read from its file or traced and written there."""
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (self.variables, images))
        path = self.folder / f"{self._digest(shapes)}.stablehlo"
        with contextlib.suppress(Exception):  # missing, or of a JAX that it does not say
            whole = path.read_bytes()
            if hashlib.sha256(whole[32:]).digest() == whole[:32]:  # not damaged
                kept = export.deserialize(bytearray(whole[32:])).call
                path.touch()  # the last used are kept
                return kept
        run = jax.jit(functools.partial(_outputs, systems.build(self.config)))
        jax.eval_shape(run, *shapes)  # what the network says of parameters that do not fit it
        try:
            exported = export.export(run)(*shapes)
            content = bytes(exported.serialize())
        except Exception:  # a program that JAX cannot export, such as one with a kernel of its own
            return run
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            whole = hashlib.sha256(content).digest() + content
            write_bytes_atomically(path, lambda file: file.write(whole))
            for old in sorted(self.folder.glob("*.stablehlo"), key=lambda file: -file.stat().st_mtime)[_MOST:]:
                old.unlink(missing_ok=True)
        return exported.call

    def _digest(self, shapes: Any) -> str:
        settings: Any = jax.config
        parts = [jaxlm.__version__, jax.__version__, jax.devices()[0].device_kind, os.environ.get("XLA_FLAGS", "")]
        parts += [str(settings.jax_enable_x64), str(settings.jax_default_matmul_precision), *_source()]
        text = json.dumps([parts, json.loads(self.config.to_json()), str(shapes)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _outputs(system: systems.System, variables: Any, images: Any) -> dict[str, Any]:
    prediction = system.predict(variables, images)
    held = {"landmarks": prediction.landmarks, "score": prediction.score, **prediction.aux}
    return {name: held[name] for name in system.outputs}


@functools.lru_cache(maxsize=1)
def _source() -> list[str]:
    """Name, size and time of the package's files."""
    root = Path(jaxlm.__file__).parent
    files = sorted(root.rglob("*.py"))
    return [f"{file.relative_to(root)} {(stat := file.stat()).st_size} {stat.st_mtime_ns}" for file in files]

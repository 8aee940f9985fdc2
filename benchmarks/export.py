"""Accuracy and latency of the exports of every system: python -m benchmarks export

Prints the largest difference of a landmark between export and model in crop pixels, on rendered faces, and the latency
of one crop with jit, StableHLO and ONNX Runtime (one thread; also of graphs exported with `--batch=1 --unroll`), timed
in turns. `taskset -c 0` limits all three to one core. The networks are as large as the papers' and randomly
initialised, with norms like those of trained networks. `--workdirs` measures trained models instead. Needs the extra
`export`.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.table import Table, in_turns
from jaxlm import systems
from jaxlm.config import Config, load_config_file
from jaxlm.export import forms
from jaxlm.predict.model import ONNX, STABLEHLO, call_graph, load_model, onnx_session

STATIC = "onnx static"  # --batch=1 --unroll

NETWORKS = {
    "ldeq_tiny": ("quickstart.py", {"solver.name": "anderson", "solver.max_steps": 6}),
    "ldeq_paper": ("ldeq_wflw.py", {"model.dtype": "float32"}),
    "awing": ("awing_wflw.py", {"model.dtype": "float32"}),
    "reinit_glsr": ("reinit_wflw.py:small", {}),
    "tddfa_mobilenet_1": ("tddfa_rendered.py", {"model.backbone": "mobilenet_1", "image_size": 120}),
}


@dataclasses.dataclass(frozen=True)
class Options:
    names: tuple[str, ...] = tuple(NETWORKS)
    """Networks to measure."""
    workdirs: tuple[str, ...] = ()
    """Workdirs of trained models to measure instead."""
    rounds: int = 20
    """Turns; medians are printed."""


def network(name: str) -> tuple[Config, Any]:
    """Config and random variables of a network, with norms and last layers unlike those of a fresh network."""
    file, overrides = NETWORKS[name]
    config = load_config_file(file)
    for field, value in overrides.items():
        config.update_from_flattened_dict({field: value})
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        names = [str(key.key) for key in path]
        if names[-1] in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        if any("head" in part or "last" in part for part in names):
            return jnp.asarray(leaf + 0.002 * rng.normal(size=leaf.shape), leaf.dtype)
        if names[-1] == "kernel":  # so that activations neither vanish nor explode
            fan_in = 9 if leaf.ndim == 4 and leaf.shape[2] == 1 else np.prod(leaf.shape[:-1])
            return jnp.asarray(rng.normal(size=leaf.shape) * np.sqrt(2 / fan_in), leaf.dtype)
        return leaf

    state = systems.initialize(systems.build(config), jax.random.key(0))
    return config, jax.tree_util.tree_map_with_path(draw, state.variables)


def measure(name: str, config: Config, variables: Any, rounds: int, table: Table) -> None:
    config = config.copy_and_resolve_references()
    config.eval.flip_average, config.eval.sets = False, ()
    crops = forms.check_crops(config)
    run = jax.jit(forms.inference(config))
    image, calls, differences = crops.images[:1], {}, {}
    calls["jit"] = lambda: jax.block_until_ready(run(variables, image))
    for form in ("stablehlo", "onnx", STATIC):
        with tempfile.TemporaryDirectory() as folder:
            if form == STATIC and "solver" in config:
                config["solver"].unroll = True
            name_of_form, batch = form.split()[0], int(form == STATIC)
            differences[form] = forms.export_model(
                config, variables, Path(folder), name_of_form, crops, np.inf, batch=batch
            )
            path = Path(folder) / (STABLEHLO if form == "stablehlo" else ONNX)
            if form != "stablehlo":
                session = onnx_session(path.read_bytes(), name, threads=1)
                calls[form] = lambda session=session: session.run(None, {"images": image})
            else:
                graph = call_graph(path.read_bytes(), path)
                calls[form] = lambda graph=graph: jax.block_until_ready(graph(image))
    turns = in_turns(calls, rounds)
    for form in calls:
        values = {"ms": 1e3 * turns.median(form), **turns.ratio(form, "jit")}
        if form in differences:
            values["pixels of difference"] = differences[form]
        table.add(f"{name}, {form}", values)


def main(options: Options, table: Table) -> None:
    table.title("One crop")
    for path in options.workdirs:
        model = load_model(path)
        measure(Path(path).name, model.config, model.variables, options.rounds, table)
    for name in options.names if not options.workdirs else ():
        measure(name, *network(name), options.rounds, table)

"""Rows of the table of `gpu.py`: programs to compile, and what is measured with them."""

import functools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu_run import Budgeted, Prepared, Run
from benchmarks.measuring import (
    GIB,
    Program,
    TrainingStep,
    random_batch,
    random_state,
    seconds_of,
)
from benchmarks.pipeline import crops_per_second
from benchmarks.table import Values
from jaxlm import systems, training
from jaxlm.config import load_config_file, shrink_rendered
from jaxlm.networks import convolution
from jaxlm.systems.tddfa.system import make_system

HEADLINE = "LDEQ, implicit, 10 + 10 steps"


def step_of(config: Any, **options: Any) -> TrainingStep:
    system = systems.build(config)
    return TrainingStep(system, random_batch(config), loop_steps=system.loop_steps, **options)


def device(run: Run) -> Prepared:
    """Card, versions, and the rates that the other rows are compared with."""
    side, length = (256, 2**16) if run.options.smoke else (8192, 2**29)
    left, right = (jax.random.normal(jax.random.key(i), (side, side), jnp.bfloat16) for i in range(2))
    product = Program(jnp.matmul, left, right)
    values = jax.random.normal(jax.random.key(2), (length,), jnp.float32)
    add = Program(lambda values: values + 1.0, values)

    def measure(table: Budgeted) -> Iterator[tuple[str, Values]]:
        del table
        query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
        try:
            driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            driver = "none"
        card = jax.devices()[0].device_kind
        yield "device", {"card": card, "driver": driver, "jax": jax.__version__, "cores": os.cpu_count()}
        yield "matrix product", {"TFLOP/s": 2 * side**3 / seconds_of(product.call, rounds=5) / 1e12}
        yield "memory", {"GB/s read and written": 2 * values.nbytes / seconds_of(add.call) / 1e9}

    return [product, add], measure


def convolutions(run: Run) -> Prepared:
    """Convolutions of the LDEQ's cell as they are, and with channels added (`jaxlm.networks.convolution`)."""
    rng, batch = np.random.default_rng(0), 1 if run.options.smoke else 32
    programs = {}
    for side, kernel, inputs, outputs in ((64, 5, 264, 264), (64, 3, 264, 264), (64, 1, 362, 264), (64, 1, 264, 98)):
        side = 8 if run.options.smoke else side
        x = jnp.asarray(rng.normal(size=(batch, side, side, inputs)), jnp.bfloat16)
        weights = jnp.asarray(0.05 * rng.normal(size=(kernel, kernel, inputs, outputs)), jnp.bfloat16)
        name = f"convolution {kernel}×{kernel}, {inputs} → {outputs} channels"
        programs[name] = Program(convolution._plain, x, weights), Program(convolution._aligned, x, weights)

    def measure(table: Budgeted) -> Iterator[tuple[str, Values]]:
        del table
        for name, (plain, aligned) in programs.items():
            seconds = [seconds_of(program.call, seconds=run.brief(0.2)) for program in (plain, aligned)]
            rate = 2 * plain.macs / seconds[1] / 1e12
            yield name, {"ms": 1e3 * seconds[0], "ms with channels added": 1e3 * seconds[1], "TFLOP/s": rate}

    return [program for pair in programs.values() for program in pair], measure


def ldeq(run: Run) -> Prepared:
    """The LDEQ's training step of the paper's size, and in PyTorch."""
    run.start_peers()
    headline, batch = step_of(run.ldeq_config()), run.ldeq_config().train.batch_size

    def measure(table: Budgeted) -> Iterator[tuple[str, Values]]:
        run.wait_for_peers()
        ours = run.speed(table, headline, batch, "ldeq")
        logs = jax.device_get(headline.call())
        ours |= {"solver steps": float(logs["solver_steps"]), "adjoint steps": float(logs["adjoint_steps"])}
        yield HEADLINE, ours
        yield from run.compare("ldeq", ours, "LDEQ")

    return [headline], measure


def ldeq_steps(run: Run) -> Prepared:
    """The LDEQ's training step with other numbers of solver steps and other gradients."""
    counts = {"implicit": (2, 8, 32, 64), "unrolled": (2, 8), "jacobian_free": (10,)}
    if run.options.smoke:
        counts = {"implicit": (7, 8), "unrolled": (2, 3), "jacobian_free": (2,)}
    batch = run.ldeq_config().train.batch_size
    steps = {
        (gradient, count): step_of(run.ldeq_config(count, gradient))
        for gradient in counts
        for count in counts[gradient]
    }

    def measure(table: Budgeted) -> Iterator[tuple[str, Values]]:
        for (gradient, count), step in steps.items():
            yield f"LDEQ, {gradient}, {count} steps", run.speed(table, step, batch)
        # Anderson keeps min(6, steps) iterates, so its memory grows up to six steps.
        for gradient, least in (("implicit", 7), ("unrolled", 0)):
            found = {count: steps[gradient, count].memory() for count in counts[gradient] if count >= least}
            line = f"LDEQ, {gradient}, memory of {', '.join(map(str, found))} steps"
            yield line, {"× largest over smallest": max(found.values()) / min(found.values())}

    return list(steps.values()), measure


def hourglass(run: Run) -> Prepared:
    """Adaptive Wing's training step of the paper's size, without and with remat, and in PyTorch."""
    run.start_peers()
    steps = {remat: step_of(run.hourglass_config(remat=remat)) for remat in (False, True)}
    batch = run.hourglass_config().train.batch_size

    def measure(table: Budgeted) -> Iterator[tuple[str, Values]]:
        run.wait_for_peers()
        ours = run.speed(table, steps[False], batch, "hourglass")
        yield "hourglass", ours
        yield "hourglass, remat", run.speed(table, steps[True], batch)
        yield from run.compare("hourglass", ours, "hourglass")

    return list(steps.values()), measure


def reinit(run: Run) -> Prepared:
    """The last training step, of the whole network, of progressive re-initialisation in three sizes."""
    configs = {name: run.tiny(load_config_file(f"reinit_300w:{name}")) for name in ("small", "medium", "large")}
    steps = {name: step_of(config) for name, config in configs.items()}

    def measure(table: Budgeted) -> Iterator[tuple[str, Values]]:
        for name, step in steps.items():
            values = run.speed(table, step, configs[name].train.batch_size, f"reinit_{name}")
            yield f"re-initialisation, {name}", values

    return list(steps.values()), measure


def tddfa(run: Run) -> Prepared:
    """3DDFA_V2's training step with fWPDC, and what a round of the meta-joint optimisation costs over k of them."""

    def config_of(loss: str, branches: str = "vmap") -> Any:
        config: Any = load_config_file("tddfa_rendered")
        config.image_size, config.train.batch_size, config.synthesis.mode = 120, 128, "none"
        config.model.backbone, config.loss.name, config.loss.vertices = "mobilenet_1", loss, 0
        config.meta.update(k=10, branches=branches)
        return run.tiny(config)

    config = config_of("fwpdc")
    k, batch = config.meta.k, config.train.batch_size
    plain, rounds = step_of(config), {}
    for branches in ("vmap", "map"):
        system = systems.build(config_of("meta_joint", branches))
        assert system.schedule
        rounds[branches] = [
            TrainingStep(system, random_batch(config), step=system.schedule(number)[1]) for number in (1, k + 1)
        ]
    config = config_of("meta_joint")
    stacked = {key: np.repeat(value[None], k + 1, axis=0) for key, value in random_batch(config).items()}
    whole = TrainingStep(systems.build(config), stacked, step=make_system(config).lookahead().round)

    def measure(table: Budgeted) -> Iterator[tuple[str, Values]]:
        base = run.speed(table, plain, batch, "tddfa")
        yield "3DDFA_V2, fWPDC", base
        for branches, (advance, select) in rounds.items():
            parts = [seconds_of(step.call, seconds=run.brief(0.5)) for step in (advance, select)]
            cost = (k * parts[0] + parts[1]) / (k * base["ms"] / 1e3)
            yield f"3DDFA_V2, meta-joint round, {branches}", {"× k steps": cost, "GiB": advance.memory() / GIB}
        cost = seconds_of(whole.call, seconds=run.brief(0.5)) / (k * base["ms"] / 1e3)
        yield "3DDFA_V2, meta-joint round, one call", {"× k steps": cost, "GiB": whole.memory() / GIB}

    return [plain, whole, *rounds["vmap"], *rounds["map"]], measure


def video(run: Run) -> Prepared:
    """Frames a second of a clip: every frame from zero with 10 steps, with RwR's 2 steps, and warm-started with 2."""
    config, frames = run.ldeq_config(), 4 if run.options.smoke else 64
    config.video.solver.tol, config.video.max_residual = 0.0, 1e9
    system = systems.build(config)
    assert system.track
    side = config.image_size
    image = np.random.default_rng(0).integers(0, 256, (1, frames, side, side, 3), np.uint8)
    restart = np.arange(frames)[None] == 0
    variables = random_state(system).variables
    programs = {
        name: Program(functools.partial(system.track, method), variables, image, restart, np.ones((1, frames), bool))
        for name, method in (("frame-wise", "frame"), ("frame-wise, 2 steps", "early"), ("RwR", "rwr"))
    }

    def measure(table: Budgeted) -> Iterator[tuple[str, Values]]:
        del table
        found = {}
        for name, program in programs.items():
            found[name] = frames / seconds_of(program.call, seconds=run.brief(0.5))
            yield f"LDEQ on a clip, {name}", {"frames/s": found[name], "s of compilation": program.compilation}
        yield "LDEQ on a clip, ratio of RwR", {"× frame-wise": found["RwR"] / found["frame-wise"]}

    return list(programs.values()), measure


def latency(run: Run) -> Prepared:
    """Milliseconds from a crop in the computer's memory to its landmarks there, one crop at a time."""
    names = {
        "LDEQ": "ldeq_wflw",
        "hourglass": "awing_wflw",
        "re-initialisation, small": "reinit_300w:small",
        "re-initialisation, large": "reinit_300w:large",
        "3DDFA_V2": "tddfa_rendered",
        "the model inside": "shipped:faces68",
    }
    programs, images = {}, {}
    for name, file in names.items():
        config = load_config_file(file)
        if name == "3DDFA_V2":
            config.image_size, config.model.backbone = 120, "mobilenet_1"
        system = systems.build(run.tiny(config))
        side = config.image_size
        images[name] = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
        predict = functools.partial(lambda predict, variables, image: predict(variables, image)[:2], system.predict)
        programs[name] = Program(predict, random_state(system).variables, images[name])

    def measure(table: Budgeted) -> Iterator[tuple[str, Values]]:
        del table
        for name, program in programs.items():
            variables, times = program.arguments[0], []
            for _ in range(5 if run.options.smoke else 100):
                start = time.perf_counter()
                np.asarray(program.compiled(variables, jax.device_put(images[name]))[0])
                times.append(1e3 * (time.perf_counter() - start))
            slow = float(np.percentile(times, 95))
            yield f"one crop, {name}", {"ms": float(np.median(times)), "ms at the 95th percentile": slow}

    return list(programs.values()), measure


def faces_config(run: Run) -> Any:
    """`ldeq_faces68:gpu` with those of its data sets that --data has; rendered faces without --data."""
    if not run.options.data:
        config: Any = load_config_file("quickstart")
        shrink_rendered(config)
        config.image_size, config.data.threads = (64 if run.options.smoke else 256), os.cpu_count() or 2
        config.eval.limit = 16
        return run.tiny(config)
    config = load_config_file("ldeq_faces68:gpu")
    config.data.root, config.data.threads = run.options.data, os.cpu_count() or 2
    for source in config.data.sources.values():
        if not (Path(run.options.data).expanduser() / source.root).is_dir():
            source.weight = 0.0
    config.eval.sets = ("300w:heldout",)
    return run.tiny(config)


def pipeline(run: Run) -> Prepared:
    """Augmented crops a second of the host's cores, and how many the LDEQ's step uses."""

    def measure(table: Budgeted) -> Iterator[tuple[str, Values]]:
        config = faces_config(run)
        rate = crops_per_second(config, run.brief(6.0), skipped=2 if run.options.smoke else 20)
        values: Values = {"crops/s": rate, "threads": config.data.threads}
        used = table.value(HEADLINE, "images/s")
        if used:
            values["× what the LDEQ's step uses"] = values["crops/s"] / used
        yield "input pipeline", values

    return [], measure


def train(run: Run) -> Prepared:
    """`ldeq_faces68:gpu` for as many steps as fit into the time that is left; the learning rate decays within them."""

    def measure(table: Budgeted) -> Iterator[tuple[str, Values]]:
        config = faces_config(run)
        rate = table.value(HEADLINE, "images/s")
        steps, preparation = 4, 80.0  # seconds of compilations and the validation
        if rate and not run.options.smoke:
            steps = max(int(0.9 * (table.seconds_left() - preparation) * rate / config.train.batch_size), steps)
        config.train.update(num_steps=steps, checkpoint_every=steps, log_every=max(steps // 20, 1))
        config.optim.warmup_steps = max(min(config.optim.warmup_steps, steps // 10), 1)
        config.eval.limit = 16 if run.options.smoke else 0
        config.eval.batch_size = config.train.batch_size
        workdir = Path(run.options.out).expanduser().with_suffix("") / f"train_{time.strftime('%H%M%S')}"
        start = time.perf_counter()
        measured = training.train(config, workdir)
        log = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        speeds = [line["samples_per_second"] for line in log if "samples_per_second" in line]
        values: Values = {
            "steps": steps,
            "images/s": float(np.median(speeds)),
            "s in all": time.perf_counter() - start,
            **{f"{name} %": float(value) for name, value in measured.items() if name != "nme"},
        }
        yield f"training of {'ldeq_faces68:gpu' if run.options.data else 'quickstart'}", values

    return [], measure


# Name -> row.
MEASUREMENTS: dict[str, Callable[[Run], Prepared]] = {
    "device": device,
    "convolutions": convolutions,
    "ldeq": ldeq,
    "hourglass": hourglass,
    "reinit": reinit,
    "tddfa": tddfa,
    "video": video,
    "latency": latency,
    "pipeline": pipeline,
    "ldeq_steps": ldeq_steps,
    "train": train,
}
# They compile one after the other, while the same networks compile in PyTorch.
TOGETHER = ("ldeq", "hourglass")

"""Training steps and functions to be timed: random inputs, compilation, memory, multiply-adds, seconds."""

import importlib
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from jaxlm.config import Config
from jaxlm.face3d import parameters
from jaxlm.networks.multiply_adds import count_macs_of
from jaxlm.schemes import get_scheme
from jaxlm.systems import System, TrainState
from jaxlm.systems.ldeq.network import PRESETS
from jaxlm.training import data_mesh, replicate, shard_batch

GIB = 2**30

# An H100, as XLA describes it to compile for one that is not there.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84929347584
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def random_faces(count: int, side: int = 120) -> np.ndarray:
    """Random parameters (count, 62) of a morphable model, of faces in the middle of crops of `side` pixels."""
    rng = np.random.default_rng(1)
    rotations = parameters.rotation_of_angles(*rng.uniform(-60, 60, (3, count)))
    middle, scale = side / 2, side / 4
    shift = np.concatenate([rng.normal(middle, side / 24, (count, 2, 1)), np.zeros((count, 1, 1))], axis=1)
    transforms = np.concatenate([scale * rotations, shift], axis=-1).reshape(count, 12)
    return np.concatenate([transforms, rng.normal(size=(count, 50))], axis=-1).astype(np.float32)


def random_batch(config: Config) -> dict[str, np.ndarray]:
    """A batch of noise with random landmarks, as the training step of `config` takes it."""
    rng, count, size = np.random.default_rng(0), config.train.batch_size, config.image_size
    landmarks = get_scheme(config.scheme).num_landmarks
    batch = {
        "image": rng.integers(0, 256, (count, size, size, 3), np.uint8),
        "landmarks": rng.uniform(size / 4, 3 * size / 4, (count, landmarks, 2)).astype(np.float32),
        "mask": np.ones((count, landmarks), bool),
        "normalizer": np.full(count, size / 4, np.float32),
    }
    return {**batch, "params": random_faces(count, size)} if "morphable" in config else batch


def random_state(system: System) -> TrainState:
    """A state with random parameters, made without the compilation of `System.init`."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(system.init, jax.random.key(0))

    def parameter(path, leaf):
        name = jax.tree_util.keystr(path)
        if leaf.ndim > 1:
            fan_in = max(np.prod(leaf.shape[:-1]), 1)
            return (rng.standard_normal(leaf.shape) / np.sqrt(fan_in)).astype(leaf.dtype)
        return np.full(leaf.shape, "scale" in name or "var" in name, leaf.dtype)

    def constant(leaf):
        return np.zeros(leaf.shape, leaf.dtype)

    trees = (shapes.params, shapes.batch_stats, shapes.ema)
    params, batch_stats, ema = (jax.tree_util.tree_map_with_path(parameter, tree) for tree in trees)
    opt_state = jax.tree.map(constant, shapes.opt_state)
    state = TrainState(np.zeros((), np.int32), params, batch_stats, ema, opt_state)  # pyright: ignore[reportArgumentType]
    # Every leaf gets memory of its own, because a training step is given the state's memory.
    return jax.tree.map(jnp.array, state)


class Program:
    """A jitted function with its arguments: traced at once, compiled when asked to, then timed.

    Attributes:
        macs: multiply-adds of convolutions and matrix products in one call.
        compilation: seconds that the compilation took.
    """

    target: jax.sharding.Sharding | None = None  # device to compile for, if it is not here

    def __init__(self, function: Callable[..., Any], *arguments: Any, loop_steps: int = 1, **options: Any):
        self.arguments = jax.tree.map(jnp.asarray, arguments)
        if self.target is not None:
            options["out_shardings"] = self.target
            self.arguments = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.target), self.arguments
            )
        self.traced = jax.jit(function, **options).trace(*self.arguments)
        self.macs = count_macs_of(self.traced.jaxpr, loop_steps=loop_steps)

    def compile(self) -> None:
        """Compiles the function; several programs can be compiled at once in threads."""
        start = time.perf_counter()
        self.compiled = self.traced.lower().compile()
        self.compilation = time.perf_counter() - start

    def call(self) -> Any:
        """One call, which is not waited for."""
        return self.compiled(*self.arguments)

    def kernels(self) -> int:
        """Number of kernels in the compiled code; those in a loop count once."""
        return len(re.findall(r" (?:fusion|custom-call)\(", self.compiled.as_text() or ""))

    def memory(self) -> int:
        """Bytes that a call needs: arguments, results and temporaries, as the compiler plans them."""
        plan: Any = self.compiled.memory_analysis()
        total = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
        return total - plan.alias_size_in_bytes


def compile_for_h100() -> None:
    """From now on, programs are compiled for an H100 that need not be here; they cannot be called.

    Raises:
        ValueError: if `jax[cuda13]` is not installed.
    """
    try:
        importlib.import_module("jax_plugins.xla_cuda13")
    except ImportError:
        raise ValueError("Compiling for a GPU needs the plugin of jax[cuda13]; no GPU is needed.") from None
    jax.config.update("jax_platforms", "cpu")
    jax.devices()  # registers the plugin
    topology = topologies.get_topology_desc(platform="cuda", target_config=_H100, topology="1x1x1")
    mesh = topologies.make_mesh(topology, (1,), ("devices",))
    Program.target = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


class TrainingStep(Program):
    """A training step with its own state, which every call replaces; on several devices as in `jaxlm.training`."""

    def __init__(self, system: System, batch: Any, *, step: Any = None, loop_steps: int = 1):
        arguments = (random_state(system), batch, jax.random.key(0))
        if jax.device_count() > 1:
            mesh = data_mesh()
            arguments = (replicate(arguments[0], mesh), shard_batch(batch, mesh), replicate(arguments[2], mesh))
        super().__init__(step or system.train_step, *arguments, loop_steps=loop_steps, donate_argnums=0)

    def call(self) -> Any:
        state, batch, key = self.arguments
        state, logs = self.compiled(state, batch, key)
        self.arguments = (state, batch, key)
        return logs


class Peer:
    """The same network as a config's in PyTorch (`torch_peers.py`), in a program of its own.

    Args:
        name: "ldeq" or "hourglass".
        config: sizes of the network and the batch.
        log: file of the program's messages.
        seconds: duration of one of the three rounds that are timed.
    """

    def __init__(self, name: str, config: Any, log: Path, seconds: float = 1.0):
        sizes = {"batch": config.train.batch_size, "size": config.image_size, "seconds": seconds}
        sizes["landmarks"] = get_scheme(config.scheme).num_landmarks
        if name == "ldeq":
            sizes |= {key: PRESETS[config.model.preset][key] for key in ("channels", "width", "growth", "depth")}
            sizes |= {"steps": config.solver.max_steps, "gradient": config.gradient}
        else:
            sizes |= {key: config.model[key] for key in ("stacks", "features", "depth")}
        self.batch, self.log = config.train.batch_size, log
        self.ready: dict[str, Any] | None = None  # its first answer
        command = [sys.executable, str(Path(__file__).parent / "torch_peers.py"), name, json.dumps(sizes)]
        with open(log, "w") as errors:
            self.process: Any = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    def answer(self) -> dict[str, Any]:
        """The program's next line; nothing if it fails, or takes longer than ten minutes."""
        limit = threading.Timer(600, self.process.kill)
        limit.start()
        line = self.process.stdout.readline()
        limit.cancel()
        return json.loads(line) if line else {}

    def wait(self) -> None:
        """Waits until the program is ready to be timed; from then on it rests."""
        if self.ready is None:
            self.ready = self.answer()

    def measure(self) -> dict[str, Any]:
        """Images a second, memory and compilation of a training step, or why there are none."""
        self.wait()
        found = {}
        if self.ready:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            found = self.answer()
        if not self.ready or not found:
            reasons = self.log.read_text().strip().splitlines()
            return {"not measured": reasons[-1] if reasons else "the program ended"}
        return {
            "images/s": self.batch / found["seconds"],
            "GiB": found["memory"] / GIB,
            "s of compilation and three steps": self.ready["compilation"],
        }


def compile_all(programs: Sequence[Program]) -> None:
    """Compiles the programs: the first alone, then the others at once.

    A GPU tries out algorithms of each convolution, one at a time. Those of the first program are known to the others.
    """
    for program in programs[:1]:
        program.compile()
    with ThreadPoolExecutor() as pool:
        list(pool.map(Program.compile, programs[1:]))


def seconds_of(call: Callable[[], Any], *, seconds: float = 1.0, rounds: int = 3) -> float:
    """Median seconds of a call over rounds of about `seconds`; the calls of a round do not wait for each other."""
    jax.block_until_ready(call())
    start = time.perf_counter()
    jax.block_until_ready(call())
    count = max(1, round(seconds / max(time.perf_counter() - start, 1e-6)))
    measured = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)
        measured.append((time.perf_counter() - start) / count)
    return statistics.median(measured)


def kernels_of(call: Callable[[], Any], folder: str, calls: int = 2) -> dict[str, tuple[float, float]]:
    """Seconds and number of runs of each GPU kernel in a call, the longest first; empty on other devices."""
    jax.block_until_ready(call())
    with jax.profiler.trace(folder):
        for _ in range(calls):
            result = call()
        jax.block_until_ready(result)
    newest = max(Path(folder).rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    totals: dict[str, tuple[float, float]] = {}
    for plane in jax.profiler.ProfileData.from_file(str(newest)).planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if line.name.startswith("Stream"):
                for event in line.events:
                    seconds, count = totals.get(event.name, (0.0, 0.0))
                    totals[event.name] = seconds + event.duration_ns / 1e9 / calls, count + 1 / calls
    return dict(sorted(totals.items(), key=lambda item: -item[1][0]))

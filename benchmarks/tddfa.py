"""Time, memory and size of 3DDFA_V2's parts: python benchmarks/tddfa.py

- losses: value and gradient of WPDC as defined, fWPDC and VDC, for 128 faces of 26,719 vertices (as many as ICT-FaceKit
  has; the vertices are random). Target: fWPDC ten times as fast as WPDC.
- meta: a meta-joint round (k look-ahead steps of both branches and the test) compared with k steps with fWPDC alone,
  timed alternately in one run, and the compiled memory of both. Target: 2.2 times the time.
- sizes: parameters and multiply-adds of the networks, compared with the paper's.
- speed: a 120 × 120 image to 62 parameters, and to dense vertices as well, one picture at a time, jitted. Target: 50
  frames per second on one core (run under `taskset -c 0`).
- onnx: MobileNet × 1 with folded batch norms, exported, in ONNX Runtime on one thread, compared with PyTorch's export
  of the same network (extras `export` and `torch`). Target: the same numbers, in at most 1.1 times its time. Runs only
  if --what names it.
"""

import functools
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from measuring import random_faces

from jaxlm import losses, systems
from jaxlm.config import Config, load_config_file
from jaxlm.export.folding import fold_batch_norms
from jaxlm.export.onnx_graph import to_onnx
from jaxlm.face3d import morphable, parameters
from jaxlm.networks.blocks import count_parameters
from jaxlm.networks.multiply_adds import count_macs
from jaxlm.predict.model import onnx_session
from jaxlm.systems.tddfa.network import BACKBONES, ParameterNetwork
from jaxlm.systems.tddfa.system import make_system

WHAT = flags.DEFINE_list("what", ["losses", "meta", "sizes", "speed"], "Measurements to run; onnx only if named.")
BATCH = flags.DEFINE_integer("batch", 32, "Number of images in a training step.")
K = flags.DEFINE_integer("k", 10, "Number of look-ahead steps.")
SIZE = flags.DEFINE_integer("size", 120, "Side of the training images in pixels.")
BACKBONE = flags.DEFINE_string("backbone", "mobilenet_0.5", "Backbone of the training steps.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Number of timed rounds.")

PAPER = {"mobilenet_1": (3.27e6, 183e6)}
VERTICES = 26_719


def clock(function: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, without compilation."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def random_model(vertices: int) -> morphable.MorphableModel:
    rng = np.random.default_rng(0)
    mean, identity, expression = (rng.normal(size=(vertices, 3, *modes)) for modes in ((), (40,), (10,)))
    triangles = np.zeros((1, 3), np.int32)
    return morphable.make_model(mean, identity, expression, np.arange(68), triangles=triangles)


def measure_losses():
    model, target = random_model(VERTICES), jnp.asarray(random_faces(128))
    pred = target + jnp.asarray(np.random.default_rng(2).normal(size=target.shape), jnp.float32)
    values, seconds = {}, {}
    for name in ("wpdc", "fwpdc", "vdc"):
        loss = getattr(losses, name)
        step = jax.jit(jax.value_and_grad(lambda pred, model, loss=loss: loss(pred, target, model).mean()))
        values[name] = jax.jit(lambda pred, model, loss=loss: loss(pred, target, model))(pred, model)
        seconds[name] = clock(lambda step=step: step(pred, model), 3)
        print(f"{name:<7}{1e3 * seconds[name]:>9.1f} ms  ({seconds['wpdc'] / seconds[name]:.1f} times as fast as wpdc)")
    print(f"largest relative difference of fwpdc and wpdc: {np.abs(values['fwpdc'] / values['wpdc'] - 1).max():.1e}")


def training_config(loss: str) -> Config:
    config: Any = load_config_file("tddfa_rendered.py")
    config.image_size, config.train.batch_size = SIZE.value, BATCH.value
    config.model.backbone, config.loss.name = BACKBONE.value, loss
    config.synthesis.mode = "none"
    config.meta.k = K.value
    return config


def measure_meta():
    rng, size = np.random.default_rng(0), SIZE.value
    batch = {
        "image": rng.integers(0, 255, (BATCH.value, size, size, 3), dtype=np.uint8),
        "params": random_faces(BATCH.value),
        "normalizer": np.ones(BATCH.value, np.float32),
    }
    batch = jax.tree.map(jnp.asarray, batch)
    key = jax.random.key(0)
    plain = round_of(training_config("fwpdc"), batch, key)
    rounds = {}
    for branches in ("vmap", "map"):
        config: Any = training_config("meta_joint")
        config.meta.branches = branches
        rounds[branches] = round_of(config, batch, key)
    config = training_config("meta_joint")
    stacked = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], K.value + 1, axis=0), batch)
    whole = make_system(config)
    rounds["vmap, a round in one call"] = Stepper(whole.init, [whole.lookahead().round], stacked, key)
    print(f"{BACKBONE.value}, {BATCH.value} images of {size}, k = {K.value}; compiled temporaries of a step:")
    for name, stepper in {"fwpdc": plain, **rounds}.items():
        print(f"  {name:<28}{stepper.temporaries() / 2**20:>8.1f} MiB")
    times: dict[str, list[float]] = {name: [] for name in ("fwpdc", *rounds)}
    for _ in range(REPEATS.value):
        for name, stepper in {"fwpdc": plain, **rounds}.items():
            start = time.perf_counter()
            stepper.run_round()
            times[name].append(time.perf_counter() - start)
    base = statistics.median(times["fwpdc"])
    print(f"{K.value} steps with fwpdc: {base:.3f} s")
    for name in rounds:
        ratios = [ours / theirs for ours, theirs in zip(times[name], times["fwpdc"], strict=True)]
        print(f"a round, {name:<28}{statistics.median(ratios):>6.2f} times ({min(ratios):.2f} to {max(ratios):.2f})")


def round_of(config: Any, batch: Any, key: Any) -> "Stepper":
    """A round of k + 1 batches as training takes it, or k batches of a system without rounds."""
    system = systems.build(config)
    steps = [system.train_step] * K.value
    if system.schedule:
        steps = [system.schedule(number)[1] for number in range(1, K.value + 2)]
    return Stepper(system.init, steps, batch, key)


class Stepper:
    """Compiled training steps of a round; `run_round` runs them one after the other on the same batch."""

    def __init__(self, init: Any, steps: list[Any], batch: Any, key: Any):
        self.batch, self.key, self.state = batch, key, jax.jit(init)(key)
        compiled = {}
        for step in dict.fromkeys(steps):
            compiled[step] = jax.jit(step, donate_argnums=0).lower(self.state, batch, key).compile()
        self.steps = [compiled[step] for step in steps]

    def temporaries(self) -> int:
        """Bytes that the first step needs beside its arguments."""
        analysis: Any = self.steps[0].memory_analysis()
        return analysis.temp_size_in_bytes

    def run_round(self) -> None:
        for step in self.steps:
            self.state, logs = step(self.state, self.batch, self.key)
        jax.block_until_ready((self.state, logs))


def measure_sizes():
    images = jnp.zeros((1, 120, 120, 3))
    print(f"{'network':<18}{'parameters':>12}{'multiply-adds':>15}{'paper':>20}")
    for backbone in BACKBONES:
        network = ParameterNetwork(backbone, 62, 0)
        variables = jax.eval_shape(lambda network=network: network.init(jax.random.key(0), images, False))
        numbers = (
            count_parameters(variables["params"]),
            count_macs(functools.partial(apply_parameters, network), variables, images),
        )
        paper = "{:.2f} M, {:.0f} M".format(*(n / 1e6 for n in PAPER[backbone])) if backbone in PAPER else "–"
        print(f"{backbone:<18}{numbers[0] / 1e6:>10.3f} M{numbers[1] / 1e6:>13.1f} M{paper:>20}")


def initialised(backbone: str) -> tuple[ParameterNetwork, Any]:
    network = ParameterNetwork(backbone, 62, 0)
    images = jnp.asarray(np.random.default_rng(3).uniform(0, 255, (8, 120, 120, 3)), jnp.float32)

    @jax.jit
    def prepare(key):
        variables = network.init(key, images, False)
        updated = network.apply(variables, images, True, mutable=["batch_stats"])[1]["batch_stats"]
        # Running statistics of these images, so that activations neither vanish nor explode.
        measured = jax.tree.map(lambda new, old: (new - 0.9 * old) / 0.1, updated, variables["batch_stats"])
        return {**variables, "batch_stats": measured}

    return network, prepare(jax.random.key(0))


def apply_parameters(network: ParameterNetwork, variables: Any, images: Any) -> Any:
    return network.apply(variables, images, False)[0]  # pyright: ignore[reportIndexIssue]


def measure_speed():
    model, image = random_model(38_365), np.zeros((1, 120, 120, 3), np.float32)
    print(f"{'one picture at a time':<34}{'parameters':>12}{'and vertices':>14}")
    for backbone in ("mobilenet_0.5", "mobilenet_1"):
        network, variables = initialised(backbone)
        plain = functools.partial(apply_parameters, network)
        folded = fold_batch_norms(plain, variables, image)
        for name, regress in (("", functools.partial(plain, variables)), (", folded", folded)):
            run = jax.jit(regress)
            dense = jax.jit(lambda image, model, regress=regress: parameters.vertices(regress(image), model))
            seconds = (
                clock(lambda run=run: run(image), 60),
                clock(lambda dense=dense: dense(image, model), 60),
            )
            print(f"{backbone + name:<34}" + "".join(f"{1 / second:>8.0f} fps " for second in seconds))


def measure_onnx():
    network, variables = initialised("mobilenet_1")
    folded = fold_batch_norms(
        lambda variables, images: (apply_parameters(network, variables, images),),
        variables,
        jnp.zeros((1, 120, 120, 3)),
    )
    spec = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("batch"), 120, 120, 3), jnp.float32)
    exported = to_onnx(folded, spec, input_name="images", output_names=["params"])
    contents = {"jax2onnx": exported, "PyTorch": _torch_export(variables)}
    image = np.random.default_rng(0).uniform(0, 255, (1, 120, 120, 3)).astype(np.float32)
    sessions = {name: onnx_session(content, name, threads=1) for name, content in contents.items()}
    inputs = {"jax2onnx": image, "PyTorch": np.ascontiguousarray(image.transpose(0, 3, 1, 2))}
    runs = {
        name: (lambda name=name, session=session: session.run(None, {session.get_inputs()[0].name: inputs[name]})[0])
        for name, session in sessions.items()
    }
    outputs = {name: run() for name, run in runs.items()}
    expected = apply_parameters(network, variables, image)
    for name, output in outputs.items():
        print(f"{name}: largest difference from JAX {np.abs(output - expected).max():.1e}")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(20 * REPEATS.value):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name}: {1e3 * seconds:.2f} ms")
    print(f"time of jax2onnx over PyTorch: {medians['jax2onnx'] / medians['PyTorch']:.2f}")


def _torch_export(variables: Any) -> bytes:
    """ONNX file of MobileNet × 1 as PyTorch exports it; PyTorch folds the batch norms itself."""
    import torch  # pyright: ignore[reportMissingImports]

    variables = jax.tree.map(np.asarray, variables)
    params, statistics = variables["params"], variables["batch_stats"]["trunk"]
    trunk, layers = params["trunk"], []

    def add(kernel, norm, measured, stride, groups):
        kernel = kernel.reshape((1,) * (4 - kernel.ndim) + kernel.shape)  # 1×1 kernels are matrices
        outputs, inputs, side = kernel.shape[3], kernel.shape[2] * groups, kernel.shape[0]
        conv = torch.nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
        conv.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
        batch_norm = torch.nn.BatchNorm2d(outputs)
        batch_norm.weight.data, batch_norm.bias.data = torch.tensor(norm["scale"]), torch.tensor(norm["bias"])
        batch_norm.running_mean, batch_norm.running_var = torch.tensor(measured["mean"]), torch.tensor(measured["var"])
        layers.extend([conv, batch_norm, torch.nn.ReLU()])

    add(trunk["conv1"]["kernel"], trunk["bn1"], statistics["bn1"], 2, 1)
    for block in sorted(name for name in trunk if name.startswith("dw")):
        stride = 2 if block in ("dw2_2", "dw3_2", "dw4_2", "dw5_6") else 1
        kernel = trunk[block]["conv_dw"]["kernel"]
        norms, measured = trunk[block], statistics[block]
        add(kernel, norms["bn_dw"], measured["bn_dw"], stride, kernel.shape[3])
        add(norms["conv_sep"]["kernel"], norms["bn_sep"], measured["bn_sep"], 1, 1)
    last = torch.nn.Linear(*params["fc_param"]["kernel"].shape)
    last.weight.data = torch.tensor(params["fc_param"]["kernel"].T.copy())
    last.bias.data = torch.tensor(params["fc_param"]["bias"])
    network = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), last)

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network(images / 128.0 - 127.5 / 128.0)

    content: Any = io.BytesIO()
    torch.onnx.export(Scaled().eval(), (torch.zeros(1, 3, 120, 120),), content, dynamo=False)
    return content.getvalue()


def main(argv):
    del argv
    measures = {
        "losses": measure_losses,
        "meta": measure_meta,
        "sizes": measure_sizes,
        "speed": measure_speed,
        "onnx": measure_onnx,
    }
    for name in WHAT.value:
        measures[name]()


if __name__ == "__main__":
    app.run(main)

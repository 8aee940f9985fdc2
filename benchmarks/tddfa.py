"""Costs of 3DDFA_V2's parts: python benchmarks/tddfa.py

- losses: WPDC as defined beside fWPDC and VDC, value and gradient, 128 faces, 26,719 vertices (as many as
  ICT-FaceKit has; random numbers stand for it). Target: fWPDC ten times as fast as WPDC.
- meta: a round of k look-ahead steps of both branches and its test beside k steps with fWPDC alone, alternating in one
  run, and the compiled memory of both. Target: 2.2 times.
- sizes: parameters and multiply-adds of the networks beside the paper's.
- speed: a 120 × 120 image to 62 parameters and to dense vertices as well, one picture at a time, jitted. Target: 50
  frames a second on one core; `taskset -c 0` makes it one.
- onnx: MobileNet × 1, folded and exported, in ONNX Runtime on one thread, beside PyTorch's export of the same network
  (extras `export` and `torch`). Target: 1.1 times its time at most, the same numbers.
"""

import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from jaxlm import losses, morphable, parameters, systems
from jaxlm.config import Config, load_config_file
from jaxlm.models.blocks import count_parameters
from jaxlm.models.mobilenet import DepthwiseConv
from jaxlm.models.tddfa import BACKBONES, ParameterNetwork, fold

WHAT = flags.DEFINE_list("what", ["losses", "meta", "sizes", "speed"], "Which of them; onnx as well.")
BATCH = flags.DEFINE_integer("batch", 32, "Images in a training step.")
K = flags.DEFINE_integer("k", 10, "Look-ahead steps.")
SIZE = flags.DEFINE_integer("size", 120, "Side of the training images.")
BACKBONE = flags.DEFINE_string("backbone", "mobilenet_0.5", "Of the training steps.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds.")

PAPER = {"mobilenet_1": (3.27e6, 183e6)}
VERTICES = 26_719


def clock(function: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, compiled before."""
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


def random_faces(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    rotations = parameters.rotation_of_angles(*rng.uniform(-60, 60, (3, count)))
    shift = np.concatenate([rng.normal(60, 5, (count, 2, 1)), np.zeros((count, 1, 1))], axis=1)
    transforms = np.concatenate([30 * rotations, shift], axis=-1).reshape(count, 12)
    return np.concatenate([transforms, rng.normal(size=(count, 50))], axis=-1).astype(np.float32)


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
    plain = Stepper(systems.build(training_config("fwpdc")), batch, key)
    rounds = {}
    for branches in ("vmap", "map"):
        config: Any = training_config("meta_joint")
        config.meta.update(dict(branches=branches, stream=True))
        rounds[branches] = Stepper(systems.build(config), batch, key)
    config = training_config("meta_joint")
    config.meta.stream = False
    stacked = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], K.value + 1, axis=0), batch)
    rounds["vmap, a round in one call"] = Stepper(systems.build(config), stacked, key)
    print(f"{BACKBONE.value}, {BATCH.value} images of {size}, k = {K.value}; compiled temporaries of a step:")
    for name, stepper in {"fwpdc": plain, **rounds}.items():
        print(f"  {name:<28}{stepper.temporaries() / 2**20:>8.1f} MiB")
    times: dict[str, list[float]] = {name: [] for name in ("fwpdc", *rounds)}
    for _ in range(REPEATS.value):
        for name, stepper in {"fwpdc": plain, **rounds}.items():
            start = time.perf_counter()
            stepper.run_round(K.value)
            times[name].append(time.perf_counter() - start)
    base = statistics.median(times["fwpdc"])
    print(f"{K.value} steps with fwpdc: {base:.3f} s")
    for name in rounds:
        ratios = [ours / theirs for ours, theirs in zip(times[name], times["fwpdc"], strict=True)]
        print(f"a round, {name:<28}{statistics.median(ratios):>6.2f} times ({min(ratios):.2f} to {max(ratios):.2f})")


class Stepper:
    """A compiled training step that can be repeated."""

    def __init__(self, system: systems.System, batch: Any, key: Any):
        self.system, self.batch, self.key = system, batch, key
        self.state = jax.jit(system.init)(key)
        self.step = jax.jit(system.train_step, donate_argnums=0).lower(self.state, batch, key).compile()
        last = system.last_of_round
        self.last = jax.jit(last[1], donate_argnums=0).lower(self.state, batch, key).compile() if last else None

    def temporaries(self) -> int:
        analysis: Any = self.step.memory_analysis()
        return analysis.temp_size_in_bytes

    def run_round(self, k: int) -> None:
        for _ in range(1 if self.system.batches_per_step else k):
            self.state, logs = self.step(self.state, self.batch, self.key)
        if self.last is not None:
            self.state, logs = self.last(self.state, self.batch, self.key)
        jax.block_until_ready((self.state, logs))


def count_macs(network: nn.Module, variables: Any, images: Any) -> int:
    """Multiply-adds of every convolution and matrix product for one image."""
    total = 0

    def count(call, args, keywords, context):
        nonlocal total
        output = call(*args, **keywords)
        if isinstance(context.module, (nn.Conv, nn.Dense, DepthwiseConv)) and context.method_name == "__call__":
            kernel: Any = context.module.variables["params"]["kernel"]
            total += int(np.prod(output.shape[1:-1])) * kernel.size
        return output

    with nn.intercept_methods(count):
        jax.eval_shape(lambda variables, images: network.apply(variables, images, False), variables, images)
    return total


def measure_sizes():
    images = jnp.zeros((1, 120, 120, 3))
    print(f"{'network':<18}{'parameters':>12}{'multiply-adds':>15}{'paper':>20}")
    for backbone in BACKBONES:
        network = ParameterNetwork(backbone, 62, 0)
        variables = jax.eval_shape(lambda network=network: network.init(jax.random.key(0), images, False))
        numbers = count_parameters(variables["params"]), count_macs(network, variables, images)
        paper = "{:.2f} M, {:.0f} M".format(*(n / 1e6 for n in PAPER[backbone])) if backbone in PAPER else "–"
        print(f"{backbone:<18}{numbers[0] / 1e6:>10.3f} M{numbers[1] / 1e6:>13.1f} M{paper:>20}")


def initialised(backbone: str) -> tuple[ParameterNetwork, Any]:
    network = ParameterNetwork(backbone, 62, 0)
    images = jnp.asarray(np.random.default_rng(3).uniform(0, 255, (8, 120, 120, 3)), jnp.float32)

    @jax.jit
    def prepare(key):
        variables = network.init(key, images, False)
        updated = network.apply(variables, images, True, mutable=["batch_stats"])[1]["batch_stats"]
        # The statistics of these images, so that numbers neither vanish nor explode.
        measured = jax.tree.map(lambda new, old: (new - 0.9 * old) / 0.1, updated, variables["batch_stats"])
        return {**variables, "batch_stats": measured}

    return network, prepare(jax.random.key(0))


def measure_speed():
    model, image = random_model(38_365), np.zeros((1, 120, 120, 3), np.float32)
    print(f"{'one picture at a time':<34}{'parameters':>12}{'and vertices':>14}")
    for backbone in ("mobilenet_0.5", "mobilenet_1"):
        network, variables = initialised(backbone)
        folded, constants = ParameterNetwork(backbone, 62, 0, folded=True), fold(variables)
        for name, of, weights in (("", network, variables), (", folded", folded, constants)):
            regress = jax.jit(lambda weights, image, of=of: of.apply(weights, image, False)[0])
            dense = jax.jit(
                lambda weights, image, model, of=of: parameters.vertices(of.apply(weights, image, False)[0], model)
            )
            seconds = (
                clock(lambda regress=regress, weights=weights: regress(weights, image), 60),
                clock(lambda dense=dense, weights=weights: dense(weights, image, model), 60),
            )
            print(f"{backbone + name:<34}" + "".join(f"{1 / second:>8.0f} fps " for second in seconds))


def measure_onnx():
    import onnxruntime  # pyright: ignore[reportMissingImports]
    from jax2onnx import to_onnx  # pyright: ignore[reportMissingImports]

    network, variables = initialised("mobilenet_1")
    del network
    folded, constants = ParameterNetwork("mobilenet_1", 62, 0, folded=True), fold(variables)
    exported = to_onnx(lambda images: folded.apply(constants, images, False)[0], [("B", 120, 120, 3)])
    contents = {"jax2onnx": exported.SerializeToString(), "PyTorch": _torch_export(constants)}
    image = np.random.default_rng(0).uniform(0, 255, (1, 120, 120, 3)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {name: onnxruntime.InferenceSession(content, options) for name, content in contents.items()}
    inputs = {"jax2onnx": image, "PyTorch": np.ascontiguousarray(image.transpose(0, 3, 1, 2))}
    runs = {
        name: (lambda name=name, session=session: session.run(None, {session.get_inputs()[0].name: inputs[name]})[0])
        for name, session in sessions.items()
    }
    outputs = {name: run() for name, run in runs.items()}
    expected = jax.jit(lambda image: folded.apply(constants, image, False)[0])(image)
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
    print(f"ours over PyTorch's: {medians['jax2onnx'] / medians['PyTorch']:.2f}")


def _torch_export(folded: Any) -> bytes:
    """The folded MobileNet × 1 as PyTorch writes it."""
    import torch  # pyright: ignore[reportMissingImports]

    params = jax.tree.map(np.asarray, folded["params"])
    trunk, layers = params["trunk"], []

    def add(kernel, bias, stride, groups):
        outputs, inputs, side = kernel.shape[3], kernel.shape[2] * groups, kernel.shape[0]
        conv = torch.nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups)
        conv.weight.data, bias_of = torch.tensor(kernel.transpose(3, 2, 0, 1)), torch.tensor(bias)
        conv.bias = torch.nn.Parameter(bias_of)
        layers.extend([conv, torch.nn.ReLU()])

    add(trunk["conv1"]["kernel"], trunk["bn1"]["bias"], 2, 1)
    for block in sorted(name for name in trunk if name.startswith("dw")):
        stride = 2 if block in ("dw2_2", "dw3_2", "dw4_2", "dw5_6") else 1
        kernel = trunk[block]["conv_dw"]["kernel"]
        add(kernel, trunk[block]["bn_dw"]["bias"], stride, kernel.shape[3])
        add(trunk[block]["conv_sep"]["kernel"], trunk[block]["bn_sep"]["bias"], 1, 1)
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

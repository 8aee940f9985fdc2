"""Time, memory and size of 3DDFA_V2's parts: python -m benchmarks tddfa

- losses: value and gradient of WPDC as defined, fWPDC and VDC, for 128 faces of 26,719 vertices (as many as ICT-FaceKit
  has; the vertices are random). Target: fWPDC ten times as fast as WPDC.
- meta: a meta-joint round (k look-ahead steps of both branches and the test) compared with k steps with fWPDC alone,
  timed in turns, and the compiled memory of both. Target: 2.2 times the time.
- sizes: parameters and multiply-adds of the networks, compared with the paper's.
- speed: a 120 × 120 image to 62 parameters, and to dense vertices as well, one picture at a time, jitted. Target: 50
  frames per second on one core (run under `taskset -c 0`).
- onnx: MobileNet × 1 with folded batch norms, exported, in ONNX Runtime on one thread, compared with PyTorch's export
  of the same network (extras `export` and `torch`). Target: the same numbers, in at most 1.1 times its time. Runs only
  if --what names it.
"""

import dataclasses
import functools
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measuring import random_faces
from benchmarks.table import Table, in_turns
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

PARTS = ("losses", "meta", "sizes", "speed")


@dataclasses.dataclass(frozen=True)
class Options:
    what: tuple[str, ...] = PARTS
    """Measurements to run; onnx only if it is named."""
    batch: int = 32
    """Number of images in a training step."""
    k: int = 10
    """Number of look-ahead steps."""
    size: int = 120
    """Side of the training images in pixels."""
    backbone: str = "mobilenet_0.5"
    """Backbone of the training steps."""
    rounds: int = 5
    """Turns; medians are printed."""


PAPER = {"mobilenet_1": (3.27e6, 183e6)}
VERTICES = 26_719


def random_model(vertices: int) -> morphable.MorphableModel:
    rng = np.random.default_rng(0)
    mean, identity, expression = (rng.normal(size=(vertices, 3, *modes)) for modes in ((), (40,), (10,)))
    triangles = np.zeros((1, 3), np.int32)
    return morphable.make_model(mean, identity, expression, np.arange(68), triangles=triangles)


def measure_losses(options: Options, table: Table) -> None:
    model, target = random_model(VERTICES), jnp.asarray(random_faces(128))
    pred = target + jnp.asarray(np.random.default_rng(2).normal(size=target.shape), jnp.float32)
    values, calls = {}, {}
    for name in ("wpdc", "fwpdc", "vdc"):
        loss = getattr(losses, name)
        step = jax.jit(jax.value_and_grad(lambda pred, model, loss=loss: loss(pred, target, model).mean()))
        values[name] = jax.jit(lambda pred, model, loss=loss: loss(pred, target, model))(pred, model)
        calls[name] = lambda step=step: step(pred, model)
    turns = in_turns(calls, options.rounds)
    table.title(f"Value and gradient of 128 faces of {VERTICES} vertices")
    for name in calls:
        table.add(name, {"ms": 1e3 * turns.median(name), **turns.ratio(name, "fwpdc")})
    difference = float(np.abs(values["fwpdc"] / values["wpdc"] - 1).max())
    table.add("largest relative difference of fwpdc and wpdc", {"": difference})


def training_config(options: Options, loss: str) -> Config:
    config: Any = load_config_file("tddfa_rendered.py")
    config.image_size, config.train.batch_size = options.size, options.batch
    config.model.backbone, config.loss.name = options.backbone, loss
    config.synthesis.mode = "none"
    config.meta.k = options.k
    return config


def measure_meta(options: Options, table: Table) -> None:
    rng, size = np.random.default_rng(0), options.size
    batch = {
        "image": rng.integers(0, 255, (options.batch, size, size, 3), dtype=np.uint8),
        "params": random_faces(options.batch),
        "normalizer": np.ones(options.batch, np.float32),
    }
    batch = jax.tree.map(jnp.asarray, batch)
    key, plain = jax.random.key(0), f"{options.k} steps with fwpdc"
    rounds = {plain: round_of(training_config(options, "fwpdc"), batch, key)}
    for branches in ("vmap", "map"):
        config: Any = training_config(options, "meta_joint")
        config.meta.branches = branches
        rounds[f"a round, {branches}"] = round_of(config, batch, key)
    config = training_config(options, "meta_joint")
    stacked = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], options.k + 1, axis=0), batch)
    whole = make_system(config)
    rounds["a round in one call, vmap"] = Stepper(whole.init, [whole.lookahead().round], stacked, key)
    turns = in_turns({name: stepper.run_round for name, stepper in rounds.items()}, options.rounds)
    table.title(f"{options.backbone}, {options.batch} images of {size}, k = {options.k}")
    for name, stepper in rounds.items():
        memory = {"MiB of temporaries of a step": stepper.temporaries() / 2**20}
        table.add(name, {"s": turns.median(name), **turns.ratio(name, plain), **memory})


def round_of(config: Any, batch: Any, key: Any) -> "Stepper":
    """A round of k + 1 batches as training takes it, or k batches of a system without rounds."""
    system = systems.build(config)
    steps = [system.train_step] * config.meta.k
    if system.schedule:
        steps = [system.schedule(number)[1] for number in range(1, config.meta.k + 2)]
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


def measure_sizes(options: Options, table: Table) -> None:
    del options
    images = jnp.zeros((1, 120, 120, 3))
    table.title("Sizes")
    for backbone in BACKBONES:
        network = ParameterNetwork(backbone, 62, 0)
        variables = jax.eval_shape(lambda network=network: network.init(jax.random.key(0), images, False))
        macs = count_macs(functools.partial(apply_parameters, network), variables, images)
        values = {"M parameters": count_parameters(variables["params"]) / 1e6, "M multiply-adds": macs / 1e6}
        if backbone in PAPER:
            parameters, multiply_adds = (number / 1e6 for number in PAPER[backbone])
            values |= {"M parameters in the paper": parameters, "M multiply-adds in the paper": multiply_adds}
        table.add(backbone, values)


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


def measure_speed(options: Options, table: Table) -> None:
    model, image = random_model(38_365), np.zeros((1, 120, 120, 3), np.float32)
    calls = {}
    for backbone in ("mobilenet_0.5", "mobilenet_1"):
        network, variables = initialised(backbone)
        plain = functools.partial(apply_parameters, network)
        folded = fold_batch_norms(plain, variables, image)
        for name, regress in ((backbone, functools.partial(plain, variables)), (f"{backbone}, folded", folded)):
            run = jax.jit(regress)
            dense = jax.jit(lambda image, model, regress=regress: parameters.vertices(regress(image), model))
            calls[f"{name}, parameters"] = lambda run=run: run(image)
            calls[f"{name}, vertices"] = lambda dense=dense: dense(image, model)
    turns = in_turns(calls, 12 * options.rounds)
    table.title("One picture at a time")
    for name in calls:
        table.add(name, {"frames/s": 1 / turns.median(name)})


def measure_onnx(options: Options, table: Table) -> None:
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
    turns = in_turns(runs, 20 * options.rounds)
    table.title("MobileNet × 1 in ONNX Runtime")
    for name, output in outputs.items():
        values = {"ms": 1e3 * turns.median(name), **turns.ratio(name, "PyTorch")}
        table.add(f"{name}'s export", {**values, "difference from JAX": float(np.abs(output - expected).max())})


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


def main(options: Options, table: Table) -> None:
    measures = {
        "losses": measure_losses,
        "meta": measure_meta,
        "sizes": measure_sizes,
        "speed": measure_speed,
        "onnx": measure_onnx,
    }
    for name in options.what:
        if name not in measures:
            raise ValueError(f"There is no part {name!r}; choose of {', '.join(measures)}.")
        measures[name](options, table)

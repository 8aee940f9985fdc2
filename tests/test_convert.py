import argparse
import io
import json
import pickle
import shutil
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_sets import face
from ml_collections import ConfigDict

from jaxlm import geometry, systems
from jaxlm.commands import evaluate
from jaxlm.config import load_config_file
from jaxlm.convert import dpr
from jaxlm.convert import released as releases
from jaxlm.convert.torch_weights import TorchWeights
from jaxlm.networks.mobilenet import SMALL
from jaxlm.training import train
from jaxlm.workdir import config_file, restore

torch: Any = pytest.importorskip("torch")

FILES = ("98_points_global_reinit.pth.tar", "98_points_global_regress.pth.tar", "98_points_local_reinit.pth.tar")


def make_localization():
    nn = torch.nn
    layers = [
        *(nn.Conv2d(3, 8, 5, 2), nn.MaxPool2d(2), nn.PReLU(), nn.Conv2d(8, 16, 3), nn.PReLU(), nn.Conv2d(16, 16, 3)),
        *(
            nn.MaxPool2d(2),
            nn.PReLU(),
            nn.Conv2d(16, 32, 3),
            nn.PReLU(),
            nn.Conv2d(32, 32, 3),
            nn.MaxPool2d(2),
            nn.PReLU(),
        ),
        *(nn.Conv2d(32, 64, 3), nn.PReLU()),
    ]
    head = nn.Sequential(nn.Linear(256, 32), nn.PReLU(), nn.Linear(32, 6))
    return torch.nn.ModuleDict({"localization": nn.Sequential(*layers), "fc_loc": head})


def make_regressor():
    nn = torch.nn

    def conv(inputs, outputs, kernel, stride=1, groups=1):
        pad = (kernel - 1) // 2
        return [nn.Conv2d(inputs, outputs, kernel, stride, pad, groups=groups, bias=False), nn.BatchNorm2d(outputs)]

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride, expansion):
            super().__init__()
            width = inputs * expansion
            expand = [*conv(inputs, width, 1), nn.ReLU()] if expansion != 1 else []
            middle = [*conv(width, width, 3, stride, width), nn.ReLU()]
            self.conv = nn.Sequential(*expand, *middle, *conv(width, outputs, 1))

        def forward(self, x):
            y = self.conv(x)
            return x + y if x.shape == y.shape else y

    features, inputs = [nn.Sequential(*conv(3, SMALL.stem, 3, 2), nn.ReLU())], SMALL.stem
    for row in SMALL.rows:
        for repeat in range(row.repeats):
            features.append(Block(inputs, row.features, row.stride if repeat == 0 else 1, row.expansion))
            inputs = row.features
    features.append(nn.Sequential(*conv(inputs, SMALL.last, 1), nn.ReLU()))
    head = nn.Sequential(nn.Linear(256, 256), nn.PReLU(), nn.Linear(256, 256), nn.PReLU(), nn.Linear(256, 196))
    return nn.ModuleDict({"features": nn.Sequential(*features), "pts_net": head})


def make_local():
    nn = torch.nn
    heads = {}
    for part in ("left_eye", "right_eye", "nose", "mouth"):
        heads[f"{part}_net"] = nn.Sequential(
            nn.Linear(196, 128), nn.PReLU(), nn.Linear(128, 64), nn.PReLU(), nn.Linear(64, 6)
        )
    return nn.ModuleDict(heads)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Networks of the released form with random weights, and the files that hold them."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("released")
    networks = make_localization(), make_regressor(), make_local()
    for network, name in zip(networks, FILES, strict=True):
        network.eval()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2.0)
        state = {f"module.{key}": value for key, value in network.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": state}, folder / name)
    np.save(folder / "mean_98_face.npy", np.random.default_rng(0).uniform(0.1, 0.9, 196))
    return folder, networks


@pytest.fixture(scope="module")
def workdir(released, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "run"
    releases.convert("dpr", released[0], folder)
    return folder


def test_the_converted_network_is_the_released_one(released, workdir):
    """θ, the landmarks and the parts' θ, each in the pixels of the released code, from our own checkpoint."""
    folder, (localization, regressor, local) = released
    config = config_file.load_config(workdir)
    variables, step = restore.restore_variables(config, workdir)
    assert step == 0 and config.model.refine == "network" and config.data.crop == "dpr"
    system = systems.build(config)
    assert system.halves is not None
    rng = np.random.default_rng(1)
    crop, face = (rng.integers(0, 256, (1, side, side, 3)) for side in (128, 256))

    def tensor(image):  # BGR, channels first, in [-1, 1]
        return torch.tensor(image[..., ::-1] / 127.5 - 1.0, dtype=torch.float32).permute(0, 3, 1, 2)

    with torch.no_grad():
        theta = localization["fc_loc"](localization["localization"](tensor(crop)).flatten(1)).numpy().reshape(2, 3)
        shape = regressor["pts_net"](regressor["features"](tensor(face)).flatten(1)).numpy().reshape(98, 2)
    expected = theta.astype(np.float64)
    expected[:, 2] *= 128
    located = jax.jit(system.halves.locate)(variables, jnp.asarray(crop, jnp.float32))[0]
    np.testing.assert_allclose(located, 2.0 * expected, rtol=1e-3, atol=2e-3)
    mean = np.load(folder / "mean_98_face.npy").reshape(98, 2)
    points = 256 * (mean + 0.5 * shape)
    prediction = jax.jit(system.halves.regress)(variables, jnp.asarray(face, jnp.float32))
    # The parts' regressor is untrained: it moves nothing, so these are the global stage's landmarks.
    np.testing.assert_allclose(prediction.landmarks[0], points, atol=2e-2)

    from jaxlm.systems.reinit.system import make_model

    model = make_model(config)
    *_, thetas, _ = jax.jit(lambda v, x: model.apply(v, x, method="regress"))(variables, jnp.asarray(face, jnp.float32))
    for part, ours in zip(("left_eye", "right_eye", "nose", "mouth"), thetas, strict=True):
        with torch.no_grad():
            theirs = local[f"{part}_net"](torch.tensor(points.reshape(1, -1), dtype=torch.float32)).numpy()
        theirs = theirs.reshape(2, 3).astype(np.float64)
        theirs[:, 2] *= 128
        np.testing.assert_allclose(
            geometry.unit_to_pixels(np.asarray(ours[0], np.float64), 256, 128), theirs, rtol=5e-3, atol=0.5
        )


def test_every_tensor_is_accounted_for(released, tmp_path):
    folder, (localization, *_) = released
    for name in ("mean_98_face.npy", *FILES):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = load_config_file("reinit_wflw.py:released")
    for change, message in (
        ({"fc_loc.9.weight": torch.zeros(2)}, "1 tensors that the network does not: fc_loc.9.weight"),
        ({"fc_loc.0.bias": None}, "no tensor 'fc_loc.0.bias'"),
        ({"fc_loc.2.bias": torch.zeros(4)}, "fc_loc.2.bias is .4,. where the network needs .6,."),
    ):
        state = {**localization.state_dict(), **change}
        torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / FILES[0])
        with pytest.raises(ValueError, match=message):
            dpr.convert_dpr(tmp_path, config)
    (tmp_path / FILES[0]).write_bytes((folder / FILES[0]).read_bytes())
    (tmp_path / "mean_98_face.npy").unlink()
    with pytest.raises(ValueError, match=r"mean_98_face\.npy does not exist"):
        dpr.convert_dpr(tmp_path, config)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="not a file of PyTorch weights alone"):
        TorchWeights(tmp_path / "evil.pth")
    assert not (tmp_path / "written").exists()
    (tmp_path / "text.pth").write_text("hello")
    buffer = io.BytesIO()
    pickle.dump({"a": 1}, buffer, protocol=2)
    (tmp_path / "plain.pth").write_bytes(buffer.getvalue())
    for name in ("text.pth", "plain.pth"):
        with pytest.raises(ValueError, match=name):
            TorchWeights(tmp_path / name)
    with pytest.raises(ValueError, match="does not exist"):
        TorchWeights(tmp_path / "none.pth")


def test_a_workdir_in_use_is_left_alone(released, workdir):
    with pytest.raises(ValueError, match="holds checkpoints already"):
        releases.convert("dpr", released[0], workdir)
    with pytest.raises(ValueError, match="choose one of dpr"):
        releases.convert("dlib", released[0], workdir)


@pytest.mark.slow
def test_training_goes_on_from_the_released_weights(workdir, tmp_path):
    """The parts are trained on top of the released global stage, which stays as it is."""
    shutil.copytree(workdir, tmp_path / "run")
    config = config_file.load_config(workdir)
    root = tmp_path / "faces"
    root.mkdir()
    for number in range(8):
        picture, points = face(number, size=64, count=98)
        cv2.imwrite(str(root / f"{number}.png"), picture)
        lines = "\n".join(f"{x} {y}" for x, y in points)
        (root / f"{number}.txt").write_text(f"98\n{lines}\n")
    config.data.root, config.data.cache = str(root), str(tmp_path / "cache")
    config.data.sources = ConfigDict({"own": {"builder": "own", "root": "", "train_split": "train", "weight": 1.0}})
    for phase in config.phases:
        config.phases[phase].share = float(phase == "local")
    config.train.update(dict(num_steps=1, batch_size=2, log_every=1, checkpoint_every=1))
    train(config, tmp_path / "run")
    before, _ = restore.restore_variables(config, workdir)
    after, step = restore.restore_variables(config, tmp_path / "run", "last")
    assert step == 1
    for name in before["params"]:
        same = jax.tree.all(
            jax.tree.map(lambda a, b: bool((a == b).all()), before["params"][name], after["params"][name])
        )
        assert same == (name in ("reinit", "regressor")), name
    np.testing.assert_array_equal(before["batch_stats"]["mean_shape"], after["batch_stats"]["mean_shape"])


def test_the_released_weights_on_the_five_samples(real_data, tmp_path):
    """5.18 % on average: what the published demonstration gives on its own pictures."""
    releases.convert("dpr", real_data / "dpr" / "weights", tmp_path / "run")
    config = config_file.load_config(tmp_path / "run")
    config.data.cache = str(tmp_path / "cache")
    written = evaluate.evaluate_workdir(
        config, tmp_path / "run", data="own", root=str(real_data / "dpr" / "wflw_samples")
    )
    report = json.loads(written[0].read_text())
    assert report["count"] == 5 and abs(report["nme"] - 5.18) < 0.05 and report["crop"] == "dpr"


class ReleasedLdeq(torch.nn.Module):
    """The layers of the authors' LDEQ under their names, of any width, with plain iteration."""

    def __init__(self, landmarks, channels, width, growth):
        super().__init__()
        w = [width + i * growth for i in range(5)]
        self.tail = torch.nn.Sequential(
            ReleasedBlock(3, channels // 4, 7, 2, torch.nn.BatchNorm2d(channels // 4)),
            ReleasedBlock(channels // 4, channels // 2, 3, 1, torch.nn.BatchNorm2d(channels // 2)),
            torch.nn.MaxPool2d(2),
            ReleasedBlock(channels // 2, channels, 3, 1, torch.nn.BatchNorm2d(channels)),
        )

        def block(inputs, outputs, kernel):
            return ReleasedBlock(inputs, outputs, kernel, 1, torch.nn.GroupNorm(8, outputs))

        hourglass = {f"same{i + 1}": block(w[i], w[i], 3) for i in range(4)}
        hourglass |= {f"upchan{i + 1}": block(w[i], w[i + 1], 3) for i in range(4)}
        hourglass["bottlneck"] = block(w[4], w[4], 3)
        for number, i in enumerate((3, 2, 1, 0)):
            hourglass[f"downchan{2 * number + 1}"] = block(w[i + 1], w[i], 3)
            hourglass[f"downchan{2 * number + 2}"] = block(2 * w[i], w[i], 1)
            hourglass[f"same{number + 5}"] = block(w[i], w[i], 5)
        head = torch.nn.ModuleDict({"conv": torch.nn.Conv2d(width, landmarks, 1)})
        cell = {
            "tail": block(landmarks + channels, width, 1),
            "hourglass": torch.nn.ModuleDict(hourglass),
            "head": head,
        }
        self.deq_layer = torch.nn.ModuleDict({"cell": torch.nn.ModuleDict(cell)})

    def cell(self, z, injection, beta):
        parts = self.deq_layer["cell"]
        h, skips = parts["hourglass"], []
        x = parts["tail"](torch.cat([z, injection], dim=1))
        for i in range(4):
            skips.append(h[f"same{i + 1}"](x))
            x = h[f"upchan{i + 1}"](torch.nn.functional.avg_pool2d(skips[-1], 2))
        x = h["bottlneck"](x)
        for number, skip in enumerate(reversed(skips)):
            x = torch.nn.functional.interpolate(h[f"downchan{2 * number + 1}"](x), scale_factor=2)
            x = h[f"downchan{2 * number + 2}"](torch.cat([skip, x], dim=1))
            x = h[f"same{number + 5}"](x) + x
        logits = parts["head"]["conv"](x)
        return torch.exp(beta * (logits - logits.amax(dim=(2, 3), keepdim=True)))

    def forward(self, images, landmarks, beta, steps):
        injection = self.tail(images)
        z = torch.zeros(len(images), landmarks, *injection.shape[2:])
        for _ in range(steps):
            z = self.cell(z, injection, beta)
        weights = z / (1e-4 + z.sum(dim=(2, 3), keepdim=True))
        columns, rows = (torch.arange(side, dtype=torch.float32) for side in (z.shape[3], z.shape[2]))
        x, y = (weights * columns).sum(dim=(2, 3)), (weights * rows[:, None]).sum(dim=(2, 3))
        return torch.stack([x / z.shape[3], y / z.shape[2]], dim=2), z


class ReleasedBlock(torch.nn.Module):
    def __init__(self, inputs, outputs, kernel, stride, norm):
        super().__init__()
        self.conv = torch.nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2)
        self.norm = norm

    def forward(self, x):
        return self.norm(torch.nn.functional.leaky_relu(self.conv(x), 0.01))


@pytest.fixture(scope="module")
def released_ldeq(tmp_path_factory):
    """A network of the released layout with random weights, and the folder of its file."""
    torch.manual_seed(0)
    network = ReleasedLdeq(98, channels=96, width=96, growth=16).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2.0)
        if isinstance(module, torch.nn.GroupNorm | torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    with torch.no_grad():  # an untrained cell need not contract, and rounding would grow at every step
        network.deq_layer["cell"]["head"]["conv"].weight.mul_(0.05)
    folder = tmp_path_factory.mktemp("ldeq")
    settings = argparse.Namespace(cell_softargmax_beta=0.4, solver="anderson")
    torch.save({"args": settings, "state_dict": network.state_dict()}, folder / "final.pth.tar")
    return network, folder


def test_a_released_ldeq_gives_the_same_landmarks(released_ldeq, tmp_path):
    network, folder = released_ldeq
    config = load_config_file("ldeq_wflw:released")
    config.image_size = 64
    config = releases.convert("ldeq", folder, tmp_path / "run", config)
    assert config.model.preset == "small" and config.model.temperature == 2.5 and config.solver.max_steps == 12
    config.solver.update(name="fixed_point_iteration", tol=0.0, max_steps=12)
    config.eval.flip_average = False
    variables, _ = restore.restore_variables(config, tmp_path / "run")
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    found = jax.jit(systems.build(config).predict)(variables, images)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    inputs = torch.tensor(((images / 255 - mean) / std).transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.no_grad():
        landmarks, heatmaps = network(inputs, 98, 0.4, 12)
    np.testing.assert_allclose(found.aux["heatmaps"], heatmaps.numpy().transpose(0, 2, 3, 1), atol=2e-4)
    np.testing.assert_allclose(found.landmarks, 64 * landmarks.numpy(), atol=0.01)


def test_weights_of_another_ldeq_are_named(released_ldeq, tmp_path):
    network, folder = released_ldeq
    with pytest.raises(ValueError, match="has 98 landmarks where the config has 68"):
        config = load_config_file("ldeq_wflw:released")
        config.scheme = "faces68"
        releases.convert("ldeq", folder, tmp_path / "a", config)
    other = ReleasedLdeq(98, channels=32, width=32, growth=8)
    (tmp_path / "other").mkdir()
    torch.save(other.state_dict(), tmp_path / "other" / "x.pth")
    with pytest.raises(ValueError, match=r"which no preset has \(small"):
        releases.convert("ldeq", tmp_path / "other", tmp_path / "b")
    with pytest.raises(ValueError, match=r"must hold one file of weights \(\*.pth.tar\), and holds 0"):
        releases.convert("ldeq", tmp_path, tmp_path / "c")
    state = network.state_dict()
    state["deq_layer.cell.more"] = torch.zeros(1)
    torch.save(state, tmp_path / "other" / "x.pth")
    with pytest.raises(ValueError, match=r"has 1 tensors that the network does not: deq_layer\.cell\.more"):
        releases.convert("ldeq", tmp_path / "other", tmp_path / "d")

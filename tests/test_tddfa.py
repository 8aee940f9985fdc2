import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tddfa_300wlp
import tddfa_faces68
import tddfa_rendered

from jaxlm import systems
from jaxlm.commands import evaluate
from jaxlm.convert import released
from jaxlm.face3d import parameters
from jaxlm.face3d.model_files import load_face_model, model_of
from jaxlm.face3d.morphable import landmark_model
from jaxlm.networks.blocks import count_parameters
from jaxlm.predict.model import jitted_predict
from jaxlm.systems.tddfa import network as models
from jaxlm.systems.tddfa.costs import fwpdc, make_costs, vdc
from jaxlm.systems.tddfa.network import ParameterNetwork
from jaxlm.training import train
from jaxlm.workdir import checkpoints, config_file, restore


def make_config(tmp_path, **loss):
    config = tddfa_rendered.get_config("smoke")
    config.image_size = 32
    config.data.cache = str(tmp_path / "cache")
    config.data.sources.rendered.update(dict(num_train=16, num_test=4, size=64))
    config.morphable.update(dict(identity=3, expression=2))
    config.synthesis.frames = 1
    config.eval.batch_size = 4
    config.loss.update(dict(vertices=0, **loss))
    return config


def test_the_paper_counts_3_27_million():
    network = ParameterNetwork("mobilenet_1", 62, 0)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 120, 120, 3)), False))
    assert count_parameters(shapes["params"]) == pytest.approx(3.27e6, rel=1e-3)


@pytest.fixture
def few_blocks(monkeypatch):
    """Three blocks instead of thirteen: compiling is what takes the time."""
    monkeypatch.setattr(models, "_BLOCKS", (("dw2_1", 64, 2), ("dw3_1", 128, 2), ("dw6", 128, 2)))


@pytest.mark.slow
def test_trained_interrupted_and_resumed_to_the_same_bits(tmp_path, monkeypatch, few_blocks):
    """The smoke run: four rounds, each in one call, with the averaged parameters saved."""
    config = make_config(tmp_path)
    train(config, tmp_path / "whole")
    saved = list(map(json.loads, (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()))
    choices = [line["chosen"] for line in saved if line["kind"] == "train"]
    assert len(choices) == 4 and set(choices) <= {0.0, 1.0}
    assert all(np.isfinite(line["chosen_vdc"]) for line in saved if line["kind"] == "train")
    real = checkpoints.Checkpoints.save

    def interrupting(self, step, *args):
        real(self, step, *args)
        if step == 6:
            self.wait()
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.Checkpoints, "save", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken")
    monkeypatch.setattr(checkpoints.Checkpoints, "save", real)
    train(config, tmp_path / "broken")
    ends = [restore.restore_variables(config, tmp_path / name)[0] for name in ("whole", "broken")]
    jax.tree.map(np.testing.assert_array_equal, *ends)
    # And it predicts: landmarks in the crop, parameters of which they are the vertices.
    predict, _ = jitted_predict(config)
    prediction = predict(ends[0], np.zeros((1, 32, 32, 3), np.uint8))
    sparse = landmark_model(model_of(config))
    points = parameters.crop_pixels(parameters.vertices(prediction.aux["params"], sparse), 32)
    np.testing.assert_allclose(prediction.landmarks, points[..., :2], rtol=1e-4, atol=1e-3)
    scheme = config.copy_and_resolve_references()
    scheme.scheme = "aflw21"
    assert jitted_predict(scheme)[0](ends[0], np.zeros((1, 32, 32, 3), np.uint8)).landmarks.shape == (1, 21, 2)


def test_statistics_of_the_training_set():
    config = make_config_without_data()
    system = systems.build(config)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(system.init, jax.random.key(0)))
    params = np.random.default_rng(0).normal(2.0, 3.0, (50, 17))
    params[:, 11] = 0.0
    assert system.fit is not None
    fitted = system.fit(state, {"params": params})
    for tree in (fitted.batch_stats, fitted.ema["batch_stats"]):
        np.testing.assert_allclose(tree["param_mean"], params.mean(axis=0), rtol=1e-5)
        expected = params.std(axis=0)
        expected[11] = 1.0  # what does not vary
        np.testing.assert_allclose(tree["param_std"], expected, rtol=1e-5)


def make_config_without_data(**loss):
    config = tddfa_rendered.get_config("smoke")
    config.morphable.update(dict(identity=3, expression=2))
    config.loss.update(dict(name="fwpdc", vertices=0, **loss))
    return config


def costs_of(name, **loss):
    config = make_config_without_data()
    config.loss.update(dict(name=name, **loss))
    model = model_of(config)
    model = model._replace(param_mean=model.param_mean + 0.1, param_std=model.param_std * 2.0)
    rng = np.random.default_rng(0)
    target = jnp.asarray(rng.normal(size=(3, model.num_params)), jnp.float32)
    pred = target + jnp.asarray(rng.normal(size=target.shape), jnp.float32)
    costs = make_costs(config, model)
    return [float(cost(pred, target, model, jax.random.key(0))) for cost in costs], (pred, target, model)


def test_vanilla_joint_weighs_with_beta():
    (weighted,), arrays = costs_of("fwpdc")
    (distance,), _ = costs_of("vdc")
    assert weighted == pytest.approx(float(fwpdc(*arrays).mean()), rel=1e-5)
    assert distance == pytest.approx(float(vdc(*arrays).mean()) / len(arrays[2].mean), rel=1e-5)
    (joint,), _ = costs_of("vanilla_joint", beta=0.25)
    assert joint == pytest.approx(0.25 * weighted + 0.75 * weighted, rel=1e-5)  # |L_f|/|L_v| L_v is as large as L_f
    both, _ = costs_of("meta_joint")
    np.testing.assert_allclose(both, [weighted, distance], rtol=1e-5)


def test_some_vertices_stand_for_all():
    """Landmarks and random others: near the value of all, and another choice with another key."""
    config = make_config_without_data()
    config.loss.update(dict(name="vdc", vertices=300))
    (whole,), (pred, target, model) = costs_of("vdc")
    (cost,) = make_costs(config, model)
    values = [float(cost(pred, target, model, jax.random.key(seed))) for seed in range(2)]
    assert values[0] != values[1]
    np.testing.assert_allclose(values, whole, rtol=0.5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("loss.name", "mse", "loss.name must be one of fwpdc, wpdc"),
        ("loss.landmarks", "some", "loss.landmarks must be one of none, lrr, lmk"),
        ("model.backbone", "vgg", "model.backbone must be one of mobilenet_0.25"),
        ("model.num_landmarks", 0, "lrr needs the landmark branch"),
        ("loss.beta", 1.5, r"loss.beta must lie in \[0, 1\]"),
        ("eval.flip_average", True, "flip_average must be False"),
        ("morphable.path", "nothing.npz", r"nothing.npz does not exist: set morphable.path"),
    ],
)
def test_a_config_that_does_not_fit_is_named(field, value, message):
    config = make_config_without_data()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=message):
        systems.build(config)


def test_configs_have_the_same_fields():
    """The three differ in what stands in them, not in what can."""

    def fields(config):
        blocks = {name: value for name, value in config.to_dict().items() if isinstance(value, dict)}
        names = {f"{name}.{field}" for name, block in blocks.items() for field in block}
        return names | set(config.to_dict())

    first, *others = (fields(config.get_config()) for config in (tddfa_300wlp, tddfa_faces68, tddfa_rendered))
    assert all(names == first for names in others)


@pytest.mark.parametrize("variant", ["vdc", "meta_joint_lmk", "meta_joint_lrr_rnd", "fwpdc_svs"])
def test_rows_of_the_tables_are_variants(variant):
    config = tddfa_rendered.get_config(variant)
    assert config.loss.name == ("meta_joint" if "meta" in variant else variant.split("_")[0])
    assert config.synthesis.mode == {"vdc": "none", "meta_joint_lmk": "none", "fwpdc_svs": "video"}.get(
        variant, "random"
    )


# The released network.


def make_torch_mobilenet(width=0.5):
    """The released network's layers and names, with random weights."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)

    class Separable(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv_dw = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
            self.bn_dw = nn.BatchNorm2d(inputs)
            self.conv_sep = nn.Conv2d(inputs, outputs, 1, bias=False)
            self.bn_sep = nn.BatchNorm2d(outputs)

        def forward(self, x):
            x = torch.relu(self.bn_dw(self.conv_dw(x)))
            return torch.relu(self.bn_sep(self.conv_sep(x)))

    class MobileNet(nn.Module):
        def __init__(self):
            super().__init__()
            inputs = int(32 * width)
            self.conv1, self.bn1 = nn.Conv2d(3, inputs, 3, 2, 1, bias=False), nn.BatchNorm2d(inputs)
            blocks = {"dw2_1": (64, 1), "dw2_2": (128, 2), "dw3_1": (128, 1), "dw3_2": (256, 2), "dw4_1": (256, 1)}
            blocks |= {"dw4_2": (512, 2), **{f"dw5_{i}": (512, 1) for i in range(1, 6)}, "dw5_6": (1024, 2)}
            self.names = [*blocks, "dw6"]
            for name, (features, stride) in {**blocks, "dw6": (1024, 1)}.items():
                setattr(self, name, Separable(inputs, int(features * width), stride))
                inputs = int(features * width)
            self.fc_param, self.fc_lm = nn.Linear(inputs, 62), nn.Linear(inputs, 136)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            for name in self.names:
                x = getattr(self, name)(x)
            return self.fc_param(x.mean(dim=(2, 3)))

    network = MobileNet().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.02, 0.05)
            module.weight.data.uniform_(0.5, 1.5)
    return torch, network


def write_released(folder, network, torch):
    rng = np.random.default_rng(0)
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state}, folder / "mb05_120x120.pth")
    shapes = {"mean": (68, 3), "identity": (68, 3, 40), "expression": (68, 3, 10)}
    np.savez(folder / "bfm68.npz", **{name: rng.normal(size=shape) for name, shape in shapes.items()})
    import pickle

    statistics = {"mean": rng.normal(size=62).astype(np.float32), "std": rng.uniform(1, 2, 62).astype(np.float32)}
    (folder / "param_mean_std_62d_120x120.pkl").write_bytes(pickle.dumps(statistics))
    return statistics


def test_the_released_network_gives_the_same_numbers(tmp_path):
    torch, network = make_torch_mobilenet()
    statistics = write_released(tmp_path, network, torch)
    released.convert("tddfa_v2", tmp_path, tmp_path / "run")
    config = config_file.load_config(tmp_path / "run")
    variables, step = restore.restore_variables(config, tmp_path / "run")
    images = np.random.default_rng(0).integers(0, 255, (2, 120, 120, 3), dtype=np.uint8)
    found = jitted_predict(config)[0](variables, images).aux["params"]
    blue_first = torch.tensor((images[..., ::-1].astype(np.float32) - 127.5) / 128).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = network(blue_first).numpy() * statistics["std"] + statistics["mean"]
    assert step == 0 and np.std(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_released_files_that_do_not_fit_are_named(tmp_path):
    torch, network = make_torch_mobilenet(width=0.25)
    with pytest.raises(ValueError, match=r"must hold one of mb05_120x120\.pth, mb1_120x120\.pth, and holds none"):
        released.convert("tddfa_v2", tmp_path, tmp_path / "run")
    write_released(tmp_path, network, torch)
    with pytest.raises(ValueError, match=r"mb05_120x120\.pth: conv1\.weight is \(8, 3, 3, 3\) where the network needs"):
        released.convert("tddfa_v2", tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "bfm68.npz").unlink()
    with pytest.raises(ValueError, match="holds no face model"):
        released.convert("tddfa_v2", tmp_path, tmp_path / "run")


def test_the_released_network_on_aflw2000(real_data, tmp_path):
    pytest.importorskip("torch")
    released.convert("tddfa_v2", real_data / "tddfa_v2", tmp_path / "run")
    config = config_file.load_config(tmp_path / "run")
    config.data.cache = str(tmp_path / "cache")
    root = str(real_data / "formats" / "aflw2000")
    (path,) = evaluate.evaluate_workdir(config, tmp_path / "run", data="aflw2000", root=root)
    report = json.loads(path.read_text())
    assert report["count"] == 24 and report["nme"] < 3.0 and report["nme_mean_of_bins"] < 3.6


def test_the_released_basis_has_62_parameters(real_data):
    folder = real_data / "tddfa_v2"
    model = load_face_model(str(folder / "bfm68.npz"), statistics=str(folder / "param_mean_std_62d_120x120.pkl"))
    assert model.num_params == 62 and model.mean.shape == (68, 3)

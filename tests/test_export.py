import functools
import json
import shutil
import subprocess
import sys

import awing_rendered
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quickstart
import reinit_faces68
import tddfa_rendered
from jax import export as jax_export

from jaxlm import systems
from jaxlm.commands import compare
from jaxlm.data import sources
from jaxlm.evaluation import comparison
from jaxlm.export import forms, onnx_graph
from jaxlm.predict.model import load_model, onnx_session
from jaxlm.systems.reinit import sampler
from jaxlm.systems.tddfa import network as tddfa_models
from jaxlm.workdir.config_file import write_config

onnx = pytest.importorskip("jax2onnx", reason="the extra export is not installed")

FORMATS = forms.FORMATS


def variables_of(config):
    """As they might be after training."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        names = [key.key for key in path]
        if names[-1] in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        if any("head" in name or "last" in name for name in names):
            return jnp.asarray(leaf + 0.003 * rng.normal(size=leaf.shape), jnp.float32)
        if names[-1] == "kernel":
            fan_in = 9 if leaf.ndim == 4 and leaf.shape[2] == 1 else np.prod(leaf.shape[:-1])
            return jnp.asarray(rng.normal(size=leaf.shape) * np.sqrt(2 / fan_in), jnp.float32)
        return jnp.asarray(leaf)

    state = jax.jit(systems.build(config).init)(jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, jax.device_get(state.variables))


def crops_of(config, count=3):
    size = config.image_size
    images = np.random.default_rng(1).uniform(0, 255, (count, size, size, 3)).astype(np.float32)
    return forms.Crops(images, "noise")


def ldeq():
    config = quickstart.get_config("smoke")
    config.image_size = 32
    config.solver.update(dict(name="anderson", max_steps=4))
    return config


def mobilenet():
    config = tddfa_rendered.get_config("smoke")
    config.image_size = 32
    config.morphable.update(dict(identity=3, expression=2))
    return config


def hourglass():
    return awing_rendered.get_config("smoke")


def glsr():
    return reinit_faces68.get_config("smoke")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small LDEQ in every format, and what it says of a few crops."""
    folder, config = tmp_path_factory.mktemp("exported"), ldeq()
    config.eval.flip_average = False
    variables, crops = variables_of(config), crops_of(ldeq())
    differences = {name: forms.export_model(config, variables, folder / name, name, crops) for name in FORMATS}
    expected = systems.build(config).predict(variables, jnp.asarray(crops.images))
    return folder, config, crops, expected, differences


def test_every_format_does_what_the_model_does(exported):
    folder, config, crops, expected, differences = exported
    assert max(differences.values()) < 0.05
    assert np.ptp(np.asarray(expected.landmarks)) > 5
    for name in FORMATS:
        model = load_model(folder / name)
        for count in (1, 3):  # any batch
            found = model.predict(crops.images[:count])
            np.testing.assert_allclose(found.landmarks, expected.landmarks[:count], atol=0.01)
            np.testing.assert_allclose(found.score, expected.score[:count], atol=1e-4)
        assert model.config.data.crop == config.data.crop and (model.variables is None) == (name != "orbax")


def test_a_fixed_batch_and_an_unrolled_solver_change_nothing(exported, tmp_path):
    config, crops, expected = exported[1].copy_and_resolve_references(), exported[2], exported[3]
    config.solver.unroll = True
    variables = variables_of(config)
    for name in ("stablehlo", "onnx"):
        assert forms.export_model(config, variables, tmp_path / name, name, crops, batch=2) < 0.05
        found = load_model(tmp_path / name).predict(crops.images)  # three crops, two at a time
        np.testing.assert_allclose(found.landmarks, expected.landmarks, atol=0.01)
        described = json.loads(next((tmp_path / name).glob("*.json")).read_text())
        assert described["input"]["shape"] == [2, 32, 32, 3]
    assert not {"Loop", "Scan"} & {node.op_type for node in onnx_nodes(tmp_path / "onnx" / "model.onnx")}


def test_the_description_is_enough(exported):
    folder = exported[0]
    described = json.loads((folder / "onnx" / "model.onnx.json").read_text())
    assert described["input"]["shape"] == ["batch", 32, 32, 3] and described["preprocessing"]["crop"] == "gt"
    assert described["check"]["largest_difference_pixels"] < 0.05 and described["check"]["crops"] == "3 of noise"
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"))
    assert [output.name for output in session.get_outputs()] == [output["name"] for output in described["outputs"]]
    assert "Loop" in {node.op_type for node in onnx_nodes(folder / "onnx" / "model.onnx")}
    platforms = jax_export.deserialize(bytearray((folder / "stablehlo" / "model.stablehlo").read_bytes())).platforms
    assert set(platforms) == {"cpu", "cuda", "tpu"}


def onnx_nodes(path):
    import onnx

    return onnx.load(path).graph.node


def test_mobilenet(tmp_path, monkeypatch):
    blocks = (("dw2_1", 64, 2), ("dw3_1", 128, 2), ("dw6", 128, 2))
    monkeypatch.setattr(tddfa_models, "_BLOCKS", blocks)
    config = mobilenet()
    crops, variables = crops_of(config), variables_of(config)
    for name in ("stablehlo", "onnx"):
        assert forms.export_model(config, variables, tmp_path, name, crops) < 0.05
    expected = systems.build(config).predict(variables, jnp.asarray(crops.images))
    found = load_model(tmp_path / "model.onnx").predict(crops.images)
    np.testing.assert_allclose(found.aux["params"], expected.aux["params"], rtol=1e-3, atol=1e-3)
    assert "BatchNormalization" not in {node.op_type for node in onnx_nodes(tmp_path / "model.onnx")}


@pytest.mark.slow
@pytest.mark.parametrize("make", [hourglass, glsr])
def test_other_systems(make, tmp_path):
    config = make()
    config.eval.flip_average = False
    crops, variables = crops_of(config), variables_of(config)
    for name in ("stablehlo", "onnx"):
        assert forms.export_model(config, variables, tmp_path, name, crops) < 0.05


def test_operations_in_other_words():
    def function(images):
        pooled = jax.lax.reduce_window(
            images, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
        )
        points = jnp.stack([images[:, 1, :3, 0] * 5, images[:, 2, :3, 1] * 7], axis=-1)
        sampled = sampler.sample_bilinear(images, points)
        whole = jnp.round(images[:, 0, :, 0] * 40).astype(jnp.int32) % 7
        chosen = jax.lax.platform_dependent(images, cpu=lambda x: x * 2, default=lambda x: x + x)
        return pooled, sampled, whole.astype(jnp.float32), chosen

    images = np.random.default_rng(0).uniform(-1, 1, (3, 9, 8, 2)).astype(np.float32)
    spec = jax.ShapeDtypeStruct((*jax_export.symbolic_shape("b"), 9, 8, 2), jnp.float32)
    content = onnx_graph.to_onnx(function, spec, input_name="images", output_names=["a", "b", "c", "d"])
    session = onnx_session(content, "test")
    for found, expected in zip(session.run(None, {"images": images}), function(jnp.asarray(images)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_parameters_restore_without_the_training_code(exported):
    folder, _, crops, expected, _ = exported
    program = (
        "import sys, numpy as np\n"
        "from jaxlm import load_model\n"
        f"model = load_model({str(folder / 'orbax')!r})\n"
        "landmarks = model.predict(np.load(sys.argv[1])).landmarks\n"
        "np.save(sys.argv[2], landmarks)\n"
        "assert 'jaxlm.training' not in sys.modules and 'grain' not in sys.modules, 'too much is imported'\n"
    )
    np.save(folder / "crops.npy", crops.images)
    command = [sys.executable, "-c", program, str(folder / "crops.npy"), str(folder / "found.npy")]
    subprocess.run(command, check=True, timeout=120)
    np.testing.assert_allclose(np.load(folder / "found.npy"), expected.landmarks, atol=1e-3)


class TestBadInput:
    def test_what_is_too_far_off_is_not_written(self, tmp_path, monkeypatch):
        config = ldeq()
        wrong = functools.partial(np.add, 0.2)
        monkeypatch.setattr(forms, "call_graph", lambda content, path, batch: lambda images: [wrong(EXPECTED[0])])
        variables, crops = variables_of(config), crops_of(config)
        EXPECTED[:] = [np.asarray(systems.build(config).predict(variables, jnp.asarray(crops.images)).landmarks)]
        with pytest.raises(ValueError, match=r"differs from the trained one by 0\.2 pixels"):
            forms.export_model(config, variables, tmp_path / "out", "stablehlo", crops)
        assert list((tmp_path / "out").iterdir()) == []
        with pytest.raises(ValueError, match="differs from the trained one"):
            forms.export_model(config, variables, tmp_path / "out", "orbax", crops, tolerance=-1.0)
        assert list((tmp_path / "out").iterdir()) == []
        (tmp_path / "run" / "checkpoints").mkdir(parents=True)
        with pytest.raises(ValueError, match="is a workdir"):
            forms.export_model(config, variables, tmp_path / "run", "orbax", crops)

    def test_formats_and_types(self, tmp_path):
        config = ldeq()
        with pytest.raises(ValueError, match="choose of orbax, stablehlo, onnx"):
            forms.export_model(config, {}, tmp_path, "tflite", crops_of(config))
        config.model.dtype = "bfloat16"
        with pytest.raises(ValueError, match="add --dtype=float32"):
            forms.make_onnx(config, {})

    @pytest.mark.parametrize("damage", ["flipped", "missing", "added"])
    def test_damaged_parameters_are_named(self, exported, tmp_path, damage):
        shutil.copytree(exported[0] / "orbax", tmp_path / "model")
        load_model(tmp_path / "model")
        files = [path for path in (tmp_path / "model" / "parameters").rglob("*") if path.is_file()]
        file = max(files, key=lambda path: path.stat().st_size)
        if damage == "flipped":
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        elif damage == "missing":
            file.unlink()
        else:
            file = file.with_name("stranger")
            file.write_text("")
        fault = {"flipped": "has changed", "missing": "is missing", "added": "does not belong here"}[damage]
        with pytest.raises(ValueError, match=f"{file.name} {fault}"):
            load_model(tmp_path / "model")

    def test_models_that_cannot_be_loaded(self, exported, tmp_path):
        folder, config, *_ = exported
        (tmp_path / "model.onnx").write_bytes(b"half a model")
        with pytest.raises(ValueError, match=r"model\.onnx\.json is missing"):
            load_model(tmp_path)
        for text in ("{", "[]", '{"config": {}, "outputs": []}', '{"config": "x", "outputs": [1]}'):
            (tmp_path / "model.onnx.json").write_text(text)
            with pytest.raises(ValueError, match="is damaged"):
                load_model(tmp_path / "model.onnx")
        (tmp_path / "model.stablehlo").write_bytes(b"half a model")
        for form in ("onnx", "stablehlo"):
            described = json.loads((folder / form / f"model.{form}.json").read_text())
            (tmp_path / f"model.{form}.json").write_text(json.dumps(described))
            with pytest.raises(ValueError, match=rf"model\.{form} has changed since the model was written"):
                load_model(tmp_path / f"model.{form}")
            del described["sha256"]  # as older versions wrote it
            (tmp_path / f"model.{form}.json").write_text(json.dumps(described))
        with pytest.raises(ValueError, match="not a model that ONNX Runtime takes"):
            load_model(tmp_path / "model.onnx")
        with pytest.raises(ValueError, match="not a StableHLO file"):
            load_model(tmp_path / "model.stablehlo")
        with pytest.raises(ValueError, match="does not exist; name a workdir"):
            load_model(tmp_path / "nowhere")
        write_config(tmp_path / "run", config)
        with pytest.raises(ValueError, match="has no checkpoints: train there first"):
            load_model(tmp_path / "run")
        (tmp_path / "run" / "config.json").write_text("[]")
        with pytest.raises(ValueError, match=r"config\.json cannot be used"):
            load_model(tmp_path / "run")
        (tmp_path / "run" / "config.json").write_text('{"system": "ldeq"}')
        with pytest.raises(ValueError, match=r"it lacks scheme, model"):
            load_model(tmp_path / "run")
        shutil.copytree(folder / "orbax", tmp_path / "cut")
        for file in (tmp_path / "cut").rglob("d/*"):
            file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(ValueError, match="has changed since the model was written"):
            load_model(tmp_path / "cut")
        with pytest.raises(ValueError, match="has no checkpoint 3"):
            load_model(folder / "orbax", step=3)


EXPECTED: list[np.ndarray] = []


def test_models_are_compared(video_workdir, tmp_path):
    _, folder = video_workdir
    model = load_model(folder)
    source = sources.open_set(model.config, "rendered:test")
    entries = [comparison.measure(model, name, source, repeats=2) for name in ("b", "a")]
    comparison.write(tmp_path, entries, "rendered:test")
    rows = json.loads((tmp_path / "comparison.json").read_text())["models"]
    assert [row["model"] for row in rows] == ["b", "a"] and rows[0]["count"] == 4
    assert rows[0]["parameters"] > 1000 and rows[0]["multiply_adds"] > 1e5 and rows[0]["latency_ms"] > 0
    text = (tmp_path / "comparison.md").read_text().splitlines()
    assert text[2].count("|") == text[4].count("|") and len(text) == 6
    assert (tmp_path / "comparison_ced.png").exists()


def test_short_names():
    assert compare.short_names(["runs/a/x", "runs/b/x", "y/z"]) == ["a/x", "b/x", "y/z"]
    with pytest.raises(ValueError, match="named twice"):
        compare.short_names(["runs/a", "runs/a"])

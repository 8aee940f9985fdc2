"""Traced programs that are kept: read again, not traced again, and replaced where anything differs."""

import jax
import numpy as np
import pytest

from jaxlm import systems
from jaxlm.predict import traced
from jaxlm.predict.model import jitted_predict, load_model


@pytest.fixture
def model(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    loaded = load_model("faces68")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield loaded
    jax.config.update("jax_compilation_cache_dir", before)


def refuse(config):
    raise AssertionError("traced again")


def images(count=1):
    return np.random.default_rng(0).uniform(0, 255, (count, 64, 64, 3)).astype(np.float32)


def test_the_second_process_does_not_trace(model, tmp_path, monkeypatch):
    expected = jitted_predict(model.config)[0](model.variables, images())
    first = traced.traced_predict(model.config, model.variables)(images())
    assert len(list((tmp_path / "traced").iterdir())) == 1
    monkeypatch.setattr(systems, "build", refuse)
    second = traced.traced_predict(model.config, model.variables)(images())
    for found in (first, second):
        np.testing.assert_allclose(found.landmarks, expected.landmarks, atol=1e-3)
        np.testing.assert_allclose(found.score, expected.score, atol=1e-5)
    with pytest.raises(AssertionError, match="traced again"):  # another shape
        traced.traced_predict(model.config, model.variables)(images(2))
    config = model.config.copy_and_resolve_references()
    config.eval.flip_average = not config.eval.flip_average
    with pytest.raises(AssertionError, match="traced again"):  # another config
        traced.traced_predict(config, model.variables)(images())
    monkeypatch.setattr(traced, "_source", lambda: ["changed"])
    with pytest.raises(AssertionError, match="traced again"):  # another source
        traced.traced_predict(model.config, model.variables)(images())


def test_a_damaged_file_is_replaced(model, tmp_path):
    predict = traced.traced_predict(model.config, model.variables)
    expected = predict(images())
    (path,) = (tmp_path / "traced").iterdir()
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    flipped = [bytearray(whole) for _ in range(4)]
    for content in flipped:
        content[rng.integers(len(whole))] ^= 1 << rng.integers(8)
    for damage in (b"", whole[: len(whole) // 2], whole[:100] + bytes(100) + whole[200:], *map(bytes, flipped)):
        path.write_bytes(damage)
        found = traced.traced_predict(model.config, model.variables)(images())
        np.testing.assert_allclose(found.landmarks, expected.landmarks, atol=1e-4)
    assert path.stat().st_size == len(whole)


def test_it_can_still_be_transformed(model):
    predict = traced.traced_predict(model.config, model.variables)
    found = jax.vmap(lambda image: predict(image[None]).landmarks[0])(images(2))
    np.testing.assert_allclose(found, predict(images(2)).landmarks, atol=1e-3)


def test_what_is_not_kept(model, tmp_path, monkeypatch):
    monkeypatch.setitem(systems.SYSTEMS, "ldeq", "my_package.my_system")
    assert traced.traced_predict(model.config, model.variables) is None
    monkeypatch.undo()
    jax.config.update("jax_compilation_cache_dir", None)
    assert traced.traced_predict(model.config, model.variables) is None


def test_only_the_last_used_are_kept(model, tmp_path, monkeypatch):
    monkeypatch.setattr(traced, "_MOST", 1)
    predict = traced.traced_predict(model.config, model.variables)
    predict(images(1))
    predict(images(2))
    assert len(list((tmp_path / "traced").iterdir())) == 1

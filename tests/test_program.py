"""What a program does around its work: the cache of compiled programs, and what it imports."""

import subprocess
import sys

import jax
import pytest

from jaxlm import __main__ as front_door
from jaxlm.support import program, progress


class TestCompiledPrograms:
    """Where the front door lets JAX keep them."""

    @pytest.fixture
    def settings(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path))
        names = ("cache_dir", "cache_max_size")
        before = {name: getattr(jax.config, f"jax_compilation_{name}") for name in names}
        yield jax.config
        for name, value in before.items():
            jax.config.update(f"jax_compilation_{name}", value)

    def test_in_the_users_cache(self, settings, tmp_path):
        settings.update("jax_compilation_cache_dir", None)
        front_door.main(argv=["--no-cache", "--version"])
        assert settings.jax_compilation_cache_dir is None
        program.keep_compiled_programs()
        assert settings.jax_compilation_cache_dir == str(tmp_path / ".cache" / "jaxlm" / "compiled")
        assert settings.jax_compilation_cache_max_size == 2**30

    def test_a_folder_that_was_chosen_stays(self, settings):
        settings.update("jax_compilation_cache_dir", "elsewhere")
        program.keep_compiled_programs()
        assert settings.jax_compilation_cache_dir == "elsewhere"

    def test_a_home_that_cannot_be_written_to_has_none(self, settings, tmp_path):
        (tmp_path / ".cache").write_text("a file, not a folder")
        settings.update("jax_compilation_cache_dir", None)
        program.keep_compiled_programs()
        assert settings.jax_compilation_cache_dir is None


def test_the_cpu_is_split_unless_it_is_too_late_or_the_user_has_split_it(monkeypatch):
    code = "from jaxlm.support.program import split_cpu; import jax; split_cpu(2); n = jax.device_count(); split_cpu(3)"
    code += "; print(n, jax.device_count())"
    for flags, expected in (("", "2 2"), ("--xla_force_host_platform_device_count=4", "4 4")):
        monkeypatch.setenv("XLA_FLAGS", flags)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
    with pytest.raises(ValueError, match="cpu_devices must be at least 1, got 0"):
        program.split_cpu(0)


def test_a_stopwatch_adds_up_the_laps_of_a_part(monkeypatch):
    times = iter([0.0, 61.0, 63.0, 70.4])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))
    watch = progress.Stopwatch()
    for part in ("data", "steps", "data"):
        watch.lap(part)
    assert str(watch) == "data 1:08, steps 0:02"


def test_prediction_does_not_import_what_only_training_needs():
    code = "import sys, jaxlm.commands.predict; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    slow = {"tensorflow_datasets", "grain", "scipy.signal", "matplotlib.pyplot", "tensorboardX", "h5py"}
    assert "jaxlm.predict.predictor" in loaded and not slow & set(loaded)

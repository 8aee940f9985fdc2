import gc
import os
import sys
import tempfile
from pathlib import Path

# Compiling dominates: LLVM optimises nothing, and XLA's older emitters make a training step in a third of the time. The
# numbers that are checked do not depend on it.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0"
    " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Networks are initialised by a generator that compiles four times as fast.
os.environ.setdefault("JAX_DEFAULT_PRNG_IMPL", "rbg")
# The same small networks are compiled by many tests, and by the programs that they start.
_compiled = tempfile.TemporaryDirectory()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compiled.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "configs"))

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("jaxlm", "typecheck.check")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Third-party faces that the repository does not carry; what needs them skips where they are absent.
REAL_DATA = Path(os.environ.get("JAXLM_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """Programs of one module's tests are of no use to the next: memory, and the time to search it for garbage, grow."""
    yield
    jax.clear_caches()
    gc.collect()
    gc.freeze()


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real faces at {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="session")
def video_workdir(tmp_path_factory):
    """A network that has taken six steps on rendered faces: it knows nothing, but it runs."""
    import quickstart

    from jaxlm.training import train

    folder = tmp_path_factory.mktemp("video")
    config = quickstart.get_config("smoke")
    config.image_size = 32
    config.data.cache = str(folder / "cache")
    config.data.sources.rendered.update(dict(num_train=16, num_test=4, size=64))
    config.data.sources.rendered_videos.update(dict(num_videos=2, num_frames=5, size=64))
    config.train.update(dict(num_steps=2, checkpoint_every=2, batch_size=4))
    config.video.chunk = 4
    config.video.batch_size = 2
    config.video.clips = 1
    config.video.methods = ("frame", "rwr", "frame+ema:0.7", "frame+savgol:3,1")
    train(config, folder / "run")
    return config, folder / "run"

import os
import sys
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from jaxtyping import install_import_hook

install_import_hook("jaxlm", "typecheck.check")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Third-party faces that the repository does not carry; what needs them skips where they are absent.
REAL_DATA = Path(os.environ.get("JAXLM_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real faces at {REAL_DATA}")
    return REAL_DATA

"""Adaptive Wing on a mixture of real 68-point faces (see `jaxlm.config.set_real_faces`), for a CPU.

    jaxlm train --config=awing_faces68 --workdir=runs/awing_faces68 --config.data.root=data
    jaxlm eval --workdir=runs/awing_faces68
    jaxlm ablation --config=awing_faces68 --table=awing_7 --workdir=runs/table7 --config.data.root=data

Paper: Wang et al., ICCV 2019. Variants: rows of its Tables 5 to 7 (`:mse`, `:aw_wm`, `:theta0.4`, …),
`:soft_argmax` (L1 on landmarks through a soft-argmax), `:smoke`, `:gpu` (the paper's network at 256 × 256, bfloat16).
"""

from typing import Any

from jaxlm.config import apply_variant, set_real_faces
from jaxlm.systems.awing.settings import default_config, shrink_to_cpu, shrink_to_smoke
from jaxlm.systems.awing.tables import FACES
from jaxlm.systems.tables import rows_of


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    shrink_to_cpu(config)
    set_real_faces(config, three_hundred_w=0.6, ytf68=0.1, aflw68=0.3)
    config.train.num_steps = 2000
    choices = {"smoke": smoke, "soft_argmax": soft_argmax, "gpu": gpu, **rows_of(FACES)}
    return apply_variant(config, variant, choices)


def smoke(config: Any) -> None:
    shrink_to_smoke(config)
    config.optim.warmup_steps = 2


def soft_argmax(config: Any) -> None:
    with config.unlocked():
        config.loss.update(on="landmarks", name="l1")
        config.loss.options = {}
    config.decode = "soft_argmax"
    config.model.update(temperature=2.5, boundary=False, boundary_coordinates=False)


def gpu(config: Any) -> None:
    config.image_size = 256
    config.heatmap.update(sigma=1.75, radius=3, boundary_sigma=1.5)
    config.model.update(stacks=4, features=256, depth=4, dtype="bfloat16")
    config.optim.update(learning_rate=1e-4, drop=0.1)
    config.train.update(num_steps=40000, checkpoint_every=2000)
    config.data.threads = 16

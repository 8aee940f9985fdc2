"""LDEQ on a mixture of real 68-point faces (see `jaxlm.config.set_real_faces`), for a CPU.

    jaxlm train --config=ldeq_faces68 --workdir=runs/faces68 --config.data.root=data
    jaxlm eval --workdir=runs/faces68

Paper: Micaelli et al., CVPR 2023. Variants: `:smoke` (CPU seconds), `:gpu` (the paper's network at 256 × 256, bfloat16,
implicit gradients), `:awing` (Adaptive Wing and its weight map on the heatmaps instead of L1 on the landmarks), and the
rows of `jaxlm ablation --table=ldeq_gradient` and `ldeq_temperature`, such as `:implicit` and `:t5`.
"""

from typing import Any

from jaxlm.config import apply_variant, set_real_faces
from jaxlm.systems.awing.settings import adaptive_wing
from jaxlm.systems.ldeq.settings import default_config, shrink_to_cpu
from jaxlm.systems.ldeq.tables import TABLES
from jaxlm.systems.tables import rows_of


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    shrink_to_cpu(config)
    config.solver.max_steps = 2
    set_real_faces(config, three_hundred_w=0.4, ytf68=0.2, aflw68=0.4)
    config.augment.update(rotation=25.0, translation=0.04, blur=0.1, noise=0.1, occlusion=0.3, low_resolution=0.1)
    config.optim.update(learning_rate=2e-3, warmup_steps=200)
    config.train.update(num_steps=7500, checkpoint_every=1500)
    config.eval.limit = 300
    return apply_variant(config, variant, {"smoke": smoke, "gpu": gpu, "awing": awing, **rows_of(TABLES)})


def smoke(config: Any) -> None:
    config.model.preset = "nano"
    config.optim.warmup_steps = 2
    config.train.update(num_steps=6, batch_size=8, log_every=2, checkpoint_every=3)
    config.eval.limit = 16


def gpu(config: Any) -> None:
    config.update(image_size=256, gradient="implicit")
    config.model.update(preset="paper", dtype="bfloat16")
    config.solver.update(name="anderson", max_steps=10)
    config.optim.update(learning_rate=3e-4, warmup_steps=500)
    config.train.update(num_steps=20000, checkpoint_every=2000)
    config.data.threads = 16


def awing(config: Any) -> None:
    with config.unlocked():
        config.loss.update(adaptive_wing())

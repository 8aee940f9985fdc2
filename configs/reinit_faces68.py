"""Progressive re-initialisation on a mixture of real 68-point faces (see `jaxlm.config.set_real_faces`), for a CPU.

    jaxlm train --config=reinit_faces68 --workdir=runs/reinit_faces68 --config.data.root=data
    jaxlm eval --workdir=runs/reinit_faces68
    jaxlm ablation --config=reinit_faces68 --table=reinit_5 --workdir=runs/table5 --config.data.root=data
    jaxlm robustness --workdirs runs/table5/b1 runs/table5/gsr --out=runs/robustness

Paper: Shao et al., TPAMI 2021. Variants: the rows of `jaxlm/systems/reinit/tables.py` (`:l2`, `:l1`, `:adaptive`,
`:b1`, `:b2`, `:gsr`, `:glsr_star`, `:glsr`, …) and `:smoke` (CPU seconds).
"""

from typing import Any

from jaxlm.config import apply_variant, set_real_faces
from jaxlm.systems.reinit.settings import default_config, shrink_to_cpu
from jaxlm.systems.reinit.tables import TABLES
from jaxlm.systems.tables import rows_of


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    shrink_to_cpu(config)
    set_real_faces(config, three_hundred_w=0.6, ytf68=0.1, aflw68=0.3)
    return apply_variant(config, variant, {"smoke": smoke, **rows_of(TABLES)})


def smoke(config: Any) -> None:
    config.train.update(num_steps=10, batch_size=8, log_every=2, checkpoint_every=5)
    config.eval.limit = 16

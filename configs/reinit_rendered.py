"""Progressive re-initialisation on rendered faces, with a small network for a CPU: no data needed.

    jaxlm train --config=reinit_rendered --workdir=runs/reinit_rendered
    jaxlm eval --workdir=runs/reinit_rendered

Paper: Shao et al., TPAMI 2021. Variants: the rows of `jaxlm/systems/reinit/tables.py` (`:b1`, `:gsr`, …) and `:smoke`
(CPU seconds). The faces are those of `quickstart.py`.
"""

from typing import Any

from jaxlm.config import apply_variant, set_rendered_faces, shrink_rendered
from jaxlm.systems.reinit.settings import default_config, shrink_to_cpu
from jaxlm.systems.reinit.tables import TABLES
from jaxlm.systems.tables import rows_of


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    shrink_to_cpu(config)
    set_rendered_faces(config)
    return apply_variant(config, variant, {"smoke": smoke, **rows_of(TABLES)})


def smoke(config: Any) -> None:
    shrink_rendered(config)
    config.train.update(num_steps=10, batch_size=8, log_every=2, checkpoint_every=5)
    config.eval.limit = 16

"""Adaptive Wing on rendered faces, with a small hourglass for a CPU: no data needed.

    jaxlm train --config=awing_rendered --workdir=runs/awing_rendered
    jaxlm eval --workdir=runs/awing_rendered
    jaxlm figures --workdir=runs/awing_rendered --out=figures

Paper: Wang et al., ICCV 2019. Variants: rows of its Tables 5 to 7 (`:mse`, `:aw_wm`, `:theta0.4`, …) and `:smoke`.
"""

from typing import Any

from jaxlm.config import apply_variant, set_rendered_faces, shrink_rendered
from jaxlm.systems.awing.settings import default_config, shrink_to_cpu, shrink_to_smoke
from jaxlm.systems.awing.tables import FACES
from jaxlm.systems.tables import rows_of


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    shrink_to_cpu(config)
    set_rendered_faces(config)
    config.train.update(num_steps=1500, checkpoint_every=500)
    return apply_variant(config, variant, {"smoke": smoke, **rows_of(FACES)})


def smoke(config: Any) -> None:
    shrink_to_smoke(config)
    shrink_rendered(config)
    config.optim.warmup_steps = 2

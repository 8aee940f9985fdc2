"""3DDFA_V2 on real 68-point faces (see `jaxlm.config.set_real_faces`), to which parameters are fitted: no 300W-LP.

`data.root` also holds `tddfa_v2/` with the face model: the 68 landmark vertices `bfm68.npz` and the released
`param_mean_std_62d_120x120.pkl`. Fitting 13,000 faces takes two minutes; the fits are kept.

    jaxlm fit --config=tddfa_faces68 --config.data.root=data --out=runs/fits
    jaxlm train --config=tddfa_faces68 --workdir=runs/tddfa_faces68 --config.data.root=data
    jaxlm eval --workdir=runs/tddfa_faces68
    jaxlm ablation --config=tddfa_faces68 --table=tddfa_3 --workdir=runs/tddfa_3 --config.data.root=data

Paper: Guo et al., ECCV 2020. Variants: rows of its Tables 3 and 4 (`jaxlm/systems/tddfa/tables.py`) and `:smoke`.
"""

from typing import Any

from jaxlm.config import apply_variant, set_real_faces
from jaxlm.systems.tables import rows_of
from jaxlm.systems.tddfa.settings import default_config, shrink_to_cpu, shrink_to_smoke
from jaxlm.systems.tddfa.tables import TABLES


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    shrink_to_cpu(config)
    config.morphable.update(
        path="tddfa_v2/bfm68.npz", statistics="tddfa_v2/param_mean_std_62d_120x120.pkl", labels="fitted"
    )
    config.model.backbone = "mobilenet_0.5"
    set_real_faces(config, three_hundred_w=0.15, ytf68=0.1, aflw68=0.75)
    config.augment.flip = 0.5  # the mirrored faces are fitted, too
    config.train.update(num_steps=4400, checkpoint_every=1100)
    return apply_variant(config, variant, {"smoke": smoke, **rows_of(TABLES)})


def smoke(config: Any) -> None:
    shrink_to_smoke(config)
    config.model.backbone = "mobilenet_0.25"

"""3DDFA_V2 (Guo et al., ECCV 2020) on 300W-LP, tested on AFLW2000-3D.

Paper: NME 3.51 % on AFLW2000-3D, the mean of the yaw bins (2.63, 3.42, 4.48); 4.43 % on AFLW. For a GPU of 8 GB.
`data.root` holds `300W_LP/` and `AFLW2000/` as published (jpg and mat side by side) and, for the labels' 62 parameters,
`bfm_noneck_v3.pkl` with `tri.pkl` and `param_mean_std_62d_120x120.pkl` of 3DDFA_V2. With the 68 landmark vertices alone
(`bfm68.npz`) everything but dense outputs works.

    jaxlm train --config=tddfa_300wlp --workdir=runs/tddfa --config.data.root=data
    jaxlm eval --workdir=runs/tddfa

Variants: rows of the paper's Tables 3 and 4 (`jaxlm/systems/tddfa/tables.py`), `:smoke` (CPU seconds), and `:released`,
the network of the released MobileNet × 0.5, for `jaxlm convert tddfa_v2`.
"""

from typing import Any

from jaxlm.config import apply_variant, set_sources, source, test_source
from jaxlm.systems.tables import rows_of
from jaxlm.systems.tddfa.settings import default_config, shrink_to_smoke
from jaxlm.systems.tddfa.tables import TABLES


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    sources = {
        "300w_lp": source("300w_lp", "300W_LP"),
        "aflw2000": test_source("aflw2000", "AFLW2000", labels=""),
        # Further test sets: jaxlm eval --data=aflw_crops --config.scheme=aflw21, and --data=menpo3d.
        "aflw_crops": test_source("aflw_crops", "AFLW_3ddfa"),
        "menpo3d": test_source("menpo3d", "Menpo3D", indices=""),
    }
    set_sources(config, **sources)
    config.eval.sets = ("aflw2000",)
    return apply_variant(config, variant, {"smoke": smoke, "released": released, **rows_of(TABLES)})


def smoke(config: Any) -> None:
    shrink_to_smoke(config)
    config.model.backbone = "mobilenet_0.25"


def released(config: Any) -> None:
    config.model.update(backbone="mobilenet_0.5", num_landmarks=0, bgr=True)
    config.loss.landmarks = "none"
    config.morphable.path = "bfm68.npz"

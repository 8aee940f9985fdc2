"""LDEQ on WFLW: the paper's network at 256 × 256, Tables 1 and 2 of Micaelli et al., CVPR 2023.

`data.root` holds `WFLW_images/` and `WFLW_annotations/` as published. The paper reports an inter-ocular NME of 3.92 %,
FR10 2.48 %, AUC10 0.624 on the full test set under the crop `hih`. For one GPU of 40 GB or a TPU host.

    jaxlm train --config=ldeq_wflw --workdir=runs/ldeq_wflw --config.data.root=/data/WFLW
    jaxlm eval --workdir=runs/ldeq_wflw

Variants: `:smoke` (CPU seconds), and `:released`, what the released weights take (`jaxlm convert ldeq`).
"""

from typing import Any

from jaxlm.config import apply_variant, set_sources, source
from jaxlm.systems.ldeq.settings import default_config, shrink_to_smoke


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    config.scheme = "faces98"
    config.data.crop = "hih"
    set_sources(config, wflw=source("wflw"))
    config.train.num_steps = 14060  # 60 epochs of 7500 faces
    config.eval.sets = ("wflw:test",)
    return apply_variant(config, variant, {"smoke": shrink_to_smoke, "released": released})


def released(config: Any) -> None:
    config.model.update(released=True, dtype="float32")
    config.solver.update(max_steps=12, tol=5e-3)  # the released solver takes 12 evaluations for "10 steps"

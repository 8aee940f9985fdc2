"""Adaptive Wing on COFW: the paper's network at 256 × 256, Table 2 of Wang et al., ICCV 2019.

`data.root` holds `COFW_train.mat` and `COFW_test.mat` (or their `_color` versions) as published. The paper reports an
NME by the distance of the pupils of 4.94 %, AUC10 0.644, FR10 0.99 %, AUC8 0.391, FR8 5.52 %, under the given boxes.

    jaxlm train --config=awing_cofw --workdir=runs/awing_cofw --config.data.root=/data/COFW
    jaxlm eval --workdir=runs/awing_cofw

A 68-point model is evaluated on COFW-68, whose `COFW68_Data/` lies beside the `.mat` files, by
`jaxlm eval --workdir=… --data=cofw --root=/data/COFW`.
"""

from typing import Any

from jaxlm.config import apply_variant, set_sources, source
from jaxlm.systems.awing.settings import default_config, shrink_to_smoke


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    config.scheme = "cofw29"
    config.data.update(crop="box", normalizer="inter_pupil")
    config.video.crop = "box"
    set_sources(config, cofw=source("cofw"))
    config.train.update(num_steps=20160, checkpoint_every=2000)  # 240 epochs of 1345 faces
    config.eval.sets = ("cofw:test",)
    return apply_variant(config, variant, {"smoke": shrink_to_smoke})

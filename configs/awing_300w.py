"""Adaptive Wing on 300-W: the paper's network at 256 × 256, Tables 3 and 4 of Wang et al., ICCV 2019.

`data.root` holds the folders `afw`, `helen`, `lfpw`, `ibug` and `300W` (private test), each picture with its `.pts`.
The paper reports, inter-ocular, 3.07 % on the full test set (common 2.72, challenge 4.52), inter-pupil 4.31 %, and on
the private set 3.56 %, AUC8 0.558, FR8 0.83 %, AUC10 0.644, FR10 0.33 %. The paper crops by the boxes that came with
300-W, and the private set by the ground truth; `.pts` files carry no boxes, so both are cropped by the ground truth.

    jaxlm train --config=awing_300w --workdir=runs/awing_300w --config.data.root=/data/300W
    jaxlm eval --workdir=runs/awing_300w
"""

from typing import Any

from jaxlm.config import apply_variant, set_sources, source
from jaxlm.systems.awing.settings import default_config, shrink_to_smoke


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    set_sources(config, **{"300w": source("300w")})
    config.train.num_steps = 47220  # 240 epochs of 3148 faces
    config.eval.sets = ("300w:test", "300w:private")
    return apply_variant(config, variant, {"smoke": shrink_to_smoke})

"""Adaptive Wing on WFLW: the paper's network at 256 × 256, Tables 1, 5, 6 and 7 of Wang et al., ICCV 2019.

`data.root` holds `WFLW_images/` and `WFLW_annotations/` as published. The paper reports an inter-ocular NME of 4.36 %,
FR10 2.84 %, AUC10 0.572 on the full test set under the crop `awing` (the box of the annotations + 10 %). For a GPU of
40 GB or a TPU host; with `model.remat=True` for less.

    jaxlm train --config=awing_wflw --workdir=runs/awing_wflw --config.data.root=/data/WFLW
    jaxlm eval --workdir=runs/awing_wflw
    jaxlm ablation --config=awing_wflw --table=awing_7 --workdir=runs/table7 --config.data.root=/data/WFLW

Variants: the rows of Tables 5, 6 and 7 (`:mse`, `:aw_wm`, `:theta0.4`, …, see `jaxlm/systems/awing/tables.py`), which
crop by the ground truth as the paper's ablations do, and `:smoke`. Batch size and σ are not published: 1.75 is about
the least σ at which the mask of Eq. (4) covers a whole 7 × 7 Gaussian and some of the background around it, as the
paper describes it. Activations are bfloat16, the paper's were float32 (`model.dtype`).
"""

from typing import Any

from jaxlm.config import apply_variant, set_sources, source
from jaxlm.systems.awing.settings import default_config, shrink_to_smoke
from jaxlm.systems.awing.tables import FACES
from jaxlm.systems.tables import rows_of


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    config.scheme = "faces98"
    config.data.crop = config.video.crop = "awing"
    set_sources(config, wflw=source("wflw"))
    config.train.num_steps = 112500  # 240 epochs of 7500 faces
    config.eval.sets = ("wflw:test",)
    return apply_variant(config, variant, {"smoke": shrink_to_smoke, **rows_of(FACES)})

"""Progressive re-initialisation on WFLW: Shao et al., TPAMI 2021, Tables 5 and 11.

`data.root` is WFLW as published: `WFLW_images/`, `WFLW_annotations/`. The paper reports, inter-ocular, 5.26 % (FR10
5.72 %, AUC10 0.4925) for the small network, 4.84 % for the medium one and 3.98 % for ResNet-50.

    jaxlm train --config=reinit_wflw:medium --workdir=runs/reinit_wflw --config.data.root=/data/WFLW
    jaxlm eval --workdir=runs/reinit_wflw

Variants: `:small` (the default), `:medium`, `:large` (ResNet-50 without the local stage), `:smoke`, and the rows of
`jaxlm/systems/reinit/tables.py` (`:b1`, `:b2`, `:gsr`, `:glsr_star`, `:glsr`, `:l2`, `:l1`, `:adaptive`, …).
`:released` is what the released weights take (`jaxlm convert dpr`).
"""

from typing import Any

from jaxlm.config import apply_variant, set_sources, source
from jaxlm.systems.reinit.settings import default_config, paper_variants


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    config.scheme = "faces98"
    set_sources(config, wflw=source("wflw"))
    config.train.num_steps = 351562  # 150 epochs of 20 × 7500 faces
    config.eval.sets = ("wflw:test",)
    return apply_variant(config, variant, {**paper_variants(), "released": released})


def released(config: Any) -> None:
    config.image_size = 128
    config.data.crop = config.video.crop = "dpr"
    config.model.update(refine="none", direction="normalizing", local_input="face", bgr=True)
    config.eval.sets = ()

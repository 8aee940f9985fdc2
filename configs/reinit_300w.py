"""Progressive re-initialisation on 300-W: Shao et al., TPAMI 2021, Tables 3 to 9.

`data.root` holds the folders `afw`, `helen`, `lfpw`, `ibug` and `300W` (private test), each picture with its `.pts`.
The paper reports, inter-pupil, on the full test set 5.17 % for the small network (common 4.52, challenge 7.82), 4.61 %
for the medium one and 3.95 % for ResNet-50; on the private set, inter-ocular, AUC10 0.5504, 0.5895 and 0.6280 (FR10
0.67, 0.17 and 0.17 %). It crops by the boxes of 300-W's official detector × 1.2; `.pts` files carry no boxes, so the
box around the landmarks stands in for them, and the training boxes are drawn around it. COFW-68 is evaluated by
`jaxlm eval --workdir=… --data=cofw --root=/data/COFW` (4.50, 4.30 and 4.21 %).

    jaxlm train --config=reinit_300w:small --workdir=runs/reinit_300w --config.data.root=/data/300W
    jaxlm eval --workdir=runs/reinit_300w

Variants: `:small` (the default), `:medium`, `:large` (ResNet-50 without the local stage), `:smoke`, and the rows of
`jaxlm/systems/reinit/tables.py` (`:b1`, `:b2`, `:gsr`, `:glsr_star`, `:glsr`, `:l2`, `:l1`, `:adaptive`, …).
"""

from typing import Any

from jaxlm.config import apply_variant, set_sources, source
from jaxlm.systems.reinit.settings import default_config, paper_variants


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    config.data.normalizer = "inter_pupil"
    set_sources(config, **{"300w": source("300w")})
    config.train.update(num_steps=147562, checkpoint_every=5000)  # 150 epochs of 20 × 3148 faces
    config.eval.sets = ("300w:test", "300w:private")
    return apply_variant(config, variant, paper_variants())

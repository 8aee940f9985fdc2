"""Progressive re-initialisation on AFLW with 19 landmarks: Shao et al., TPAMI 2021, Table 10.

`data.root` holds `AFLWinfo_release.mat` of Zhu et al., CVPR 2016 (CCL) beside AFLW's own `data/flickr/{0,2,3}/`. The
paper reports, over the face's size (the root of the box's area), 1.67 % on the full test set and 1.41 % on its frontal
subset for the small network, 1.55 and 1.32 % for the medium one, 1.31 and 1.18 % for ResNet-50.

    jaxlm train --config=reinit_aflw:large --workdir=runs/reinit_aflw --config.data.root=/data/AFLW
    jaxlm eval --workdir=runs/reinit_aflw

Variants: `:small` (the default), `:medium`, `:large` (ResNet-50 without the local stage), `:smoke`, and the rows of
`jaxlm/systems/reinit/tables.py` (`:b1`, `:b2`, `:gsr`, `:glsr_star`, `:glsr`, `:l2`, `:l1`, `:adaptive`, …).
The parts have three to six landmarks each, those of nose and mouth nearly on a line, so all maps are similarities.
"""

from typing import Any

from jaxlm.config import apply_variant, set_sources, source
from jaxlm.systems.reinit.settings import default_config, paper_variants


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    config.scheme = "aflw19"
    config.model.kind = "similarity"
    config.data.normalizer = "box"
    set_sources(config, aflw=source("aflw"))
    config.train.update(num_steps=937500, checkpoint_every=20000)  # 150 epochs of 20 × 20000 faces
    config.eval.sets = ("aflw:test",)
    return apply_variant(config, variant, paper_variants())

"""Adaptive Wing on human poses: Leeds Sports Pose, Table 8 of Wang et al., ICCV 2019.

`data.root` holds `lsp_dataset/` (1000 + 1000 pictures) and `lspet_dataset/` (10000), each `joints.mat` beside
`images/`, as published. The paper reports a mean PCK@0.2 of the torso (left shoulder to right hip), person-centric, of
85.9 % with AW and 81.8 % with MSE. The network sees the box of the joints × 1.25 (`gt`), in the test as well; with
`--config.data.crop=box` it sees the whole picture, which is much harder.

    jaxlm train --config=awing_lsp --workdir=runs/awing_lsp --config.data.root=/data
    jaxlm ablation --config=awing_lsp --table=awing_8 --workdir=runs/table8 --config.data.root=/data

Variants: `:mse`, `:aw`; `:small`, a small network for a CPU on one folder in either layout, 25 % of it held out by
picture; `:smoke`. A body has no boundary channel; the rows that the paper calls 4HG have no coordinates either.
"""

from typing import Any

from jaxlm.config import apply_variant, set_sources, source
from jaxlm.systems.awing.settings import default_config, shrink_to_cpu, shrink_to_smoke
from jaxlm.systems.awing.tables import BODIES
from jaxlm.systems.tables import rows_of


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    config.scheme = "lsp14"
    config.model.update(boundary=False, coordinates=False, boundary_coordinates=False)
    config.data.normalizer = "torso"
    extension = source("lsp", "lspet_dataset", weight=10.0, num_train=0)
    set_sources(config, lsp=source("lsp", "lsp_dataset", num_train=1000), lspet=extension)
    config.train.num_steps = 165000  # 240 epochs of 11000 pictures
    config.eval.sets = ("lsp:test",)
    return apply_variant(config, variant, {"smoke": shrink_to_smoke, "small": small, **rows_of(BODIES)})


def small(config: Any) -> None:
    augment = config.augment.to_dict()
    shrink_to_cpu(config)
    config.heatmap.boundary_sigma = 1.5
    config.augment.update(augment, rotation=30.0, occlusion=0.0)
    set_sources(config, lsp=source("lsp", heldout=0.25, num_train=0))
    config.train.num_steps = 2000
    config.eval.update(sets=("lsp:heldout",), batch_size=32, limit=500)

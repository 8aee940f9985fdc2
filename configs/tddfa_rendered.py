"""3DDFA_V2 on rendered faces with the built-in head: no download, and parameters that are exact.

2,400 rendered faces, tested on 300 others and on rendered videos; an hour on two cores for a whole table.

    jaxlm train --config=tddfa_rendered --workdir=runs/tddfa_rendered
    jaxlm eval --workdir=runs/tddfa_rendered
    jaxlm ablation --config=tddfa_rendered --table=tddfa_4 --workdir=runs/tddfa_4
    jaxlm eval --workdir=runs/tddfa_4/fwpdc_svs --data=rendered_videos

Paper: Guo et al., ECCV 2020. Variants: rows of its Tables 3 and 4 (`jaxlm/systems/tddfa/tables.py`) and `:smoke`.
"""

from typing import Any

from jaxlm.config import apply_variant, set_rendered_faces, shrink_rendered, source
from jaxlm.systems.tables import rows_of
from jaxlm.systems.tddfa.settings import default_config, shrink_to_cpu, shrink_to_smoke
from jaxlm.systems.tddfa.tables import TABLES


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    shrink_to_cpu(config)
    config.morphable.update(path="head", statistics="")
    config.loss.vertices = 100
    config.model.backbone = "mobilenet_0.25"
    videos = source(
        "rendered_videos", train_split="hard", weight=0.0, num_videos=6, num_frames=60, size=160, seed=1, contour="3d"
    )
    set_rendered_faces(config, videos=videos, contour="3d")  # landmarks of the jaw, as a morphable model has them
    config.data.root = "data"
    config.train.update(num_steps=1760, checkpoint_every=880)
    return apply_variant(config, variant, {"smoke": smoke, **rows_of(TABLES)})


def smoke(config: Any) -> None:
    shrink_to_smoke(config)
    shrink_rendered(config)
    config.data.sources.rendered_videos.num_videos = 1

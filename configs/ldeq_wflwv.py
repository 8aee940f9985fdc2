"""LDEQ for video: trained on WFLW's stills, evaluated on WFLW-V; Figure 5 of Micaelli et al., CVPR 2023.

`data.root` holds `WFLW/` (`WFLW_images/`, `WFLW_annotations/`) and `WFLW_V/` (`landmarks/`, `bboxes/`, `videos/`,
`hard_video_IDs.txt`, `easy_video_IDs.txt`). The authors describe their weights for video so: plain fixed-point
iteration, and crops that vary more than those of `ldeq_wflw.py`; better on video, worse on WFLW itself. On the hard
videos the paper lowers the NMF by about 12 % with RwR at the same NME; on the easy ones nothing changes. For one GPU of
40 GB or a TPU host.

    jaxlm train --config=ldeq_wflwv --workdir=runs/ldeq_wflwv --config.data.root=/data
    jaxlm eval --workdir=runs/ldeq_wflwv --data=wflwv
"""

from typing import Any

from jaxlm.config import apply_variant, set_sources, source
from jaxlm.systems.ldeq.settings import default_config, shrink_to_smoke


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    config.scheme = "faces98"
    config.solver.name = "fixed_point_iteration"
    config.data.crop = "hih"
    videos = source("wflwv", "WFLW_V", train_split="", weight=0.0)
    set_sources(config, wflw=source("wflw", "WFLW"), wflwv=videos)
    config.augment.update(scale=0.25, translation=0.1)
    config.train.num_steps = 14060  # 60 epochs of 7500 faces
    config.eval.sets = ("wflw:test",)
    return apply_variant(config, variant, {"smoke": shrink_to_smoke})

"""LDEQ on rendered faces: the README's first command. No download, minutes on two CPU cores.

Paper: Micaelli et al., CVPR 2023. Expect an inter-ocular NME of about 4 % on rendered faces that were not trained on.

    jaxlm train --config=quickstart --workdir=runs/quickstart
    jaxlm eval --workdir=runs/quickstart

The faces are rendered once into `data.cache`. The variant `:smoke` takes CPU seconds.
"""

from typing import Any

from jaxlm.config import apply_variant, set_rendered_faces, shrink_rendered, source
from jaxlm.systems.ldeq.settings import default_config, shrink_to_cpu


def get_config(variant: str = "") -> Any:
    config: Any = default_config()
    shrink_to_cpu(config)
    config.solver.max_steps = 3
    videos = source(  # β of video.solver was chosen on seeds 0 and 1
        "rendered_videos", train_split="", weight=0.0, num_videos=16, num_frames=48, size=160, seed=2
    )
    set_rendered_faces(config, videos=videos)
    config.augment.update(rotation=15.0, scale=0.08, translation=0.03, blur=0.1, noise=0.1, color=0.2, grey=0.05)
    config.augment.low_resolution = 0.05
    config.optim.update(learning_rate=6e-3, warmup_steps=100, ema=0.995)
    config.train.update(num_steps=1900, checkpoint_every=950)
    config.eval.limit = 200
    return apply_variant(config, variant, {"smoke": smoke})


def smoke(config: Any) -> None:
    shrink_rendered(config)
    config.model.preset = "nano"
    config.optim.warmup_steps = 2
    config.train.update(num_steps=6, batch_size=8, log_every=2, checkpoint_every=3)

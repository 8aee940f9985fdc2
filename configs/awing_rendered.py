"""Adaptive Wing on rendered faces, with a small hourglass for a CPU: no data needed.

Paper: Wang et al., ICCV 2019. The faces are those of `configs/quickstart.py`.

    python train.py --config=configs/awing_rendered.py --workdir=runs/awing_rendered
    python eval.py --workdir=runs/awing_rendered
    python -m jaxlm.commands.figures --workdir=runs/awing_rendered --out=figures

Variants: the rows of Tables 5, 6 and 7 (`:mse`, `:aw_wm`, `:theta0.4`, …, see `jaxlm/systems/awing/tables.py`), `:smoke` (CPU
seconds).
"""

from typing import Any

from ml_collections import ConfigDict

from jaxlm.systems.awing.tables import TABLES
from jaxlm.systems.tables import apply_row


def get_config(variant: str = "") -> ConfigDict:
    config: Any = ConfigDict()
    config.system = "awing"
    config.scheme = "faces68"
    config.seed = 0
    config.image_size = 96
    config.loss = ConfigDict(
        dict(on="heatmaps", name="adaptive_wing", options=dict(alpha=2.1, omega=14.0, epsilon=1.0, theta=0.5))
    )
    config.heatmap = ConfigDict(
        dict(
            sigma=1.5,  # of the gaussians, in cells
            radius=-1,  # of their truncation in cells; -1 for none
            boundary_sigma=1.0,
            weight_map="dilated",  # none, baseline (H·W + 1) or dilated, Eqs. (4)-(5)
            weight=10.0,
            decode_radius=2,  # of local_soft_argmax, in cells
        )
    )
    config.decode = "quarter_pixel"  # or soft_argmax, local_soft_argmax

    config.model = ConfigDict(
        dict(
            stacks=2,
            features=32,
            depth=3,
            boundary=True,
            coordinates=True,
            boundary_coordinates=True,
            temperature=0.0,
            remat=False,
            dtype="float32",
        )
    )

    config.data = ConfigDict()
    config.data.root = "."
    config.data.cache = "~/.cache/jaxlm"
    config.data.crop = "gt"
    config.data.normalizer = "inter_ocular"
    config.data.threads = 2
    config.data.sources = ConfigDict()
    config.data.sources.rendered = ConfigDict(
        dict(
            builder="rendered",
            root="",
            train_split="train",
            weight=1.0,
            num_train=2400,
            num_test=300,
            size=160,
            seed=0,
        )
    )

    config.augment = ConfigDict(
        dict(
            rotation=25.0,
            scale=0.1,
            translation=0.04,
            flip=0.5,
            blur=0.1,
            noise=0.1,
            occlusion=0.3,
            color=0.3,
            grey=0.1,
            low_resolution=0.1,
        )
    )

    config.optim = ConfigDict(
        dict(
            name="rmsprop",
            learning_rate=6e-3,
            weight_decay=1e-5,
            schedule="steps",
            warmup_steps=100,
            drop_at=(0.6, 0.85),
            drop=0.2,
            clip_norm=0.0,
            ema=0.99,
        )
    )
    config.train = ConfigDict(dict(batch_size=16, num_steps=1500, log_every=50, checkpoint_every=500))
    config.eval = ConfigDict(dict(batch_size=64, flip_average=True, limit=300))
    config.eval.sets = ("rendered:test",)  # source:split; the first says which checkpoint is best
    config.video = ConfigDict(
        dict(
            crop="ldeq_video",
            min_iou=0.4,  # of successive boxes; less is another face
            batch_size=8,
            chunk=32,  # frames in memory at a time
            clips=2,  # of each set, written as mp4
            methods=("frame", "frame+ema:0.8", "frame+one_euro:2,0.1"),  # frame by frame: there is no state
        )
    )

    if variant == "smoke":
        config.image_size = 64
        config.model.update(dict(stacks=2, features=16, depth=1))
        config.optim.warmup_steps = 2
        config.train.update(dict(num_steps=6, batch_size=8, log_every=2, checkpoint_every=3))
        config.data.sources.rendered.update(dict(num_train=48, num_test=16))
        config.eval.limit = 16
    elif variant:
        apply_row(config, variant, TABLES, ("smoke",))
    return config

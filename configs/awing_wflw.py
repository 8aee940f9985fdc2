"""Adaptive Wing on WFLW: the paper's network at 256×256, Tables 1, 5, 6 and 7 of Wang et al., ICCV 2019.

`data.root` holds `WFLW_images/` and `WFLW_annotations/` as published. The paper reports an inter-ocular NME of 4.36 %,
FR10 2.84 %, AUC10 0.572 on the full test set under the crop `awing` (the box of the annotations + 10 %). Meant for a
GPU of 40 GB or a TPU host; with `model.remat=True` for less.

    python train.py --config=configs/awing_wflw.py --workdir=runs/awing_wflw --config.data.root=/data/WFLW
    python eval.py --workdir=runs/awing_wflw
    python -m jaxlm.commands.ablation --config=configs/awing_wflw.py --table=awing_7 --workdir=runs/table7 \\
        --config.data.root=/data/WFLW

Variants: the rows of Tables 5, 6 and 7 (`:mse`, `:aw`, `:aw_wm`, `:theta0.4`, …, see `jaxlm/systems/awing/tables.py`), which
crop by the ground truth as the paper's ablations do; `:smoke` (tiny network, CPU seconds). The batch size is not
published; nor is σ: 1.75 is about the least at which the mask of Eq. (4) covers a whole 7×7 gaussian and some of the
background around it, as the paper describes it. Activations are bfloat16, the paper's were float32 (`model.dtype`).
"""

from typing import Any

from ml_collections import ConfigDict

from jaxlm.systems.awing.tables import TABLES
from jaxlm.systems.tables import apply_row


def get_config(variant: str = "") -> ConfigDict:
    config: Any = ConfigDict()
    config.system = "awing"
    config.scheme = "faces98"
    config.seed = 0
    config.image_size = 256
    config.loss = ConfigDict(
        dict(on="heatmaps", name="adaptive_wing", options=dict(alpha=2.1, omega=14.0, epsilon=1.0, theta=0.5))
    )
    config.heatmap = ConfigDict(
        dict(
            sigma=1.75,  # of the gaussians, in cells
            radius=3,  # of their truncation in cells, 7×7; -1 for none
            boundary_sigma=1.5,
            weight_map="dilated",  # none, baseline (H·W + 1) or dilated, Eqs. (4)-(5)
            weight=10.0,
            decode_radius=2,  # of local_soft_argmax, in cells
        )
    )
    config.decode = "quarter_pixel"  # or soft_argmax, local_soft_argmax

    config.model = ConfigDict(
        dict(
            stacks=4,
            features=256,
            depth=4,
            boundary=True,
            coordinates=True,
            boundary_coordinates=True,
            temperature=0.0,
            remat=False,
            dtype="bfloat16",
        )
    )

    config.data = ConfigDict()
    config.data.root = "data"
    config.data.cache = "~/.cache/jaxlm"
    config.data.crop = "awing"
    config.data.normalizer = "inter_ocular"
    config.data.threads = 16
    config.data.sources = ConfigDict()
    config.data.sources["wflw"] = ConfigDict(
        dict(builder="wflw", root="", train_split="train", weight=1.0, heldout=0.0, group="", on_bad="error")
    )

    # Section 7.3 gives the geometry; how often pictures are blurred, noised and occluded is not published.
    config.augment = ConfigDict(
        dict(
            rotation=50.0,
            scale=0.15,
            translation=25 / 256,
            flip=0.5,
            blur=0.2,
            noise=0.2,
            occlusion=0.4,
            color=0.0,
            grey=0.0,
            low_resolution=0.0,
        )
    )

    config.optim = ConfigDict(
        dict(
            name="rmsprop",
            learning_rate=1e-4,
            weight_decay=1e-5,
            schedule="steps",
            warmup_steps=0,
            drop_at=(1 / 3, 2 / 3),  # epochs 80 and 160 of 240
            drop=0.1,
            clip_norm=0.0,
            ema=0.0,
        )
    )
    # 240 epochs of 7500 faces
    config.train = ConfigDict(dict(batch_size=16, num_steps=112500, log_every=50, checkpoint_every=5000))
    config.eval = ConfigDict(dict(batch_size=32, flip_average=False, limit=500))
    config.eval.sets = ("wflw:test",)  # source:split; the first says which checkpoint is best
    config.video = ConfigDict(
        dict(
            crop="awing",
            min_iou=0.4,  # of successive boxes; less is another face
            batch_size=8,
            chunk=32,  # frames in memory at a time
            clips=2,  # of each set, written as mp4
            methods=("frame", "frame+ema:0.8", "frame+one_euro:2,0.1"),  # frame by frame: there is no state
        )
    )

    if variant == "smoke":
        config.image_size = 64
        config.model.update(dict(stacks=2, features=16, depth=1, dtype="float32"))
        config.data.threads = 2
        config.train.update(dict(num_steps=6, batch_size=8, log_every=2, checkpoint_every=3))
        config.eval.limit = 16
    elif variant:
        apply_row(config, variant, TABLES, ("smoke",))
    return config

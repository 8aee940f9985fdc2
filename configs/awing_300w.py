"""Adaptive Wing on 300-W: the paper's network at 256×256, Tables 3 and 4 of Wang et al., ICCV 2019.

`data.root` holds the folders `afw`, `helen`, `lfpw`, `ibug` and `300W` (private test), each picture with its `.pts`.
The paper reports, inter-ocular, 3.07 % on the full test set (common 2.72, challenge 4.52), inter-pupil 4.31 %, and on
the private set 3.56 %, AUC8 0.558, FR8 0.83 %, AUC10 0.644, FR10 0.33 %; the evaluation prints all of these columns.
The paper crops by the boxes that came with 300-W, and the private set by the ground truth; `.pts` files carry no boxes,
so both are cropped by the ground truth here (`gt`).

    python train.py --config=configs/awing_300w.py --workdir=runs/awing_300w --config.data.root=/data/300W
    python eval.py --workdir=runs/awing_300w

Variant: `:smoke` (tiny network, CPU seconds).
"""

from typing import Any

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    config: Any = ConfigDict()
    config.system = "awing"
    config.scheme = "faces68"
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
    config.data.crop = "gt"
    config.data.normalizer = "inter_ocular"
    config.data.threads = 16
    config.data.sources = ConfigDict()
    config.data.sources["300w"] = ConfigDict(
        dict(builder="300w", root="", train_split="train", weight=1.0, heldout=0.0, group="", on_bad="error")
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
    # 240 epochs of 3148 faces
    config.train = ConfigDict(dict(batch_size=16, num_steps=47220, log_every=50, checkpoint_every=5000))
    config.eval = ConfigDict(dict(batch_size=32, flip_average=False, limit=500))
    config.eval.sets = ("300w:test", "300w:private")  # source:split; the first says which checkpoint is best
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
        config.model.update(dict(stacks=2, features=16, depth=1, dtype="float32"))
        config.data.threads = 2
        config.train.update(dict(num_steps=6, batch_size=8, log_every=2, checkpoint_every=3))
        config.eval.limit = 16
    elif variant:
        raise ValueError(f"There is no variant {variant!r}; choose smoke.")
    return config

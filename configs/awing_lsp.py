"""Adaptive Wing on human poses: Leeds Sports Pose, Table 8 of Wang et al., ICCV 2019.

`data.root` holds `lsp_dataset/` (1000 + 1000 pictures) and `lspet_dataset/` (10000), each `joints.mat` beside
`images/`, as published. The paper reports a mean PCK@0.2 of the torso (left shoulder to right hip), person-centric, of
85.9 % with AW and 81.8 % with MSE. The network sees the box of the joints × 1.25 (`gt`), in the test as well: where a
person is and how large is given; `--config.data.crop=box` is the whole picture, which is much harder.

    python train.py --config=configs/awing_lsp.py --workdir=runs/awing_lsp --config.data.root=/data
    python -m jaxlm.commands.ablation --config=configs/awing_lsp.py --table=awing_8 --workdir=runs/table8 \\
        --config.data.root=/data
    python -m jaxlm.commands.ablation --config=configs/awing_lsp.py:small --table=awing_8 --workdir=runs/table8_small \\
        --config.data.root=/data/lsp

Variants: `:mse`, `:aw`; `:small` is a small network for a CPU on one folder in either layout, 25 % of it held out by a
hash of the picture; `:smoke` (tiny network, CPU seconds). A body has no boundary, so there is no boundary channel, nor
are there coordinates in the rows that the paper calls 4HG.
"""

from typing import Any

from ml_collections import ConfigDict

from jaxlm.systems.awing.tables import TABLES
from jaxlm.systems.tables import apply_row


def get_config(variant: str = "") -> ConfigDict:
    config: Any = ConfigDict()
    config.system = "awing"
    config.scheme = "lsp14"
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
            boundary=False,
            coordinates=False,
            boundary_coordinates=False,
            temperature=0.0,
            remat=False,
            dtype="bfloat16",
        )
    )

    config.data = ConfigDict()
    config.data.root = "data"
    config.data.cache = "~/.cache/jaxlm"
    config.data.crop = "gt"
    config.data.normalizer = "torso"
    config.data.threads = 16
    config.data.sources = ConfigDict()
    config.data.sources["lsp"] = ConfigDict(
        dict(
            builder="lsp",
            root="lsp_dataset",
            train_split="train",
            weight=1.0,
            heldout=0.0,
            group="",
            on_bad="error",
            num_train=1000,
        )
    )
    config.data.sources["lspet"] = ConfigDict(
        dict(
            builder="lsp",
            root="lspet_dataset",
            train_split="train",
            weight=10.0,
            heldout=0.0,
            group="",
            on_bad="error",
            num_train=0,
        )
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
    # 240 epochs of 11000 pictures
    config.train = ConfigDict(dict(batch_size=16, num_steps=165000, log_every=50, checkpoint_every=5000))
    config.eval = ConfigDict(dict(batch_size=32, flip_average=False, limit=500))
    config.eval.sets = ("lsp:test",)  # source:split; the first says which checkpoint is best

    if variant == "smoke":
        config.image_size = 64
        config.model.update(dict(stacks=2, features=16, depth=1, dtype="float32"))
        config.data.threads = 2
        config.train.update(dict(num_steps=6, batch_size=8, log_every=2, checkpoint_every=3))
        config.eval.limit = 16
    elif variant == "small":
        config.image_size = 96
        config.heatmap.update(dict(sigma=1.5, radius=-1))
        config.model.update(dict(stacks=2, features=32, depth=3, dtype="float32"))
        config.data.threads = 2
        config.data.sources = ConfigDict(
            {
                "lsp": dict(
                    builder="lsp",
                    root="",
                    train_split="train",
                    weight=1.0,
                    heldout=0.25,
                    group="",
                    on_bad="error",
                    num_train=0,
                )
            }
        )
        config.augment.update(dict(rotation=30.0, occlusion=0.0))
        config.optim.update(dict(learning_rate=6e-3, warmup_steps=100, drop_at=(0.6, 0.85), drop=0.2, ema=0.99))
        config.train.update(dict(num_steps=2000, checkpoint_every=1000))
        config.eval.update(dict(flip_average=True))
        config.eval.sets = ("lsp:heldout",)
    elif variant:
        apply_row(config, variant, TABLES, ("smoke", "small"))
    return config

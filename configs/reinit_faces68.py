"""Progressive re-initialisation on a mixture of real 68-point faces, with small images for a CPU.

Paper: Shao et al., TPAMI 2021. `data.root` holds `300w/` (300-W's own layout, LFPW alone will do), `ytf68/` and
`aflw68/` (each a `landmarks.csv` beside `images/`). Held out: 10 % of 300-W by image, 10 % of `ytf68` by person.

    python train.py --config=configs/reinit_faces68.py --workdir=runs/reinit_faces68 --config.data.root=data
    python eval.py --workdir=runs/reinit_faces68
    python -m jaxlm.commands.ablation --config=configs/reinit_faces68.py --table=reinit_5 --workdir=runs/table5 \\
        --config.data.root=data
    python -m jaxlm.evaluation.robustness --workdirs=runs/table5/b1,runs/table5/gsr --out=runs/robustness

Variants: the rows of the paper's ablations (`:l2`, `:l1`, `:adaptive`, `:b1`, `:b2`, `:gsr`, `:glsr_star`, `:glsr`,
see `jaxlm/systems/reinit/tables.py`) and `:smoke` (CPU seconds).
"""

from typing import Any

from ml_collections import ConfigDict

from jaxlm.systems.reinit.tables import TABLES
from jaxlm.systems.tables import apply_row


def get_config(variant: str = "") -> ConfigDict:
    config: Any = ConfigDict()
    config.system = "reinit"
    config.scheme = "faces68"
    config.seed = 0
    config.image_size = 128  # of the crop that is sampled
    # On landmarks in units of the inter-ocular distance, those of the parts in half sides of their patch. unit: what
    # Eq. (9) multiplies the errors by, about which the paper is silent; see docs/reinit.md.
    config.loss = ConfigDict(dict(on="landmarks", name="adaptive_l1", options=dict(unit=5.0)))
    # The four training steps: how long each is beside the others, and the learning rate that decays to zero in it.
    config.phases = ConfigDict(
        dict(
            reinit=dict(share=0.3, learning_rate=2e-3),
            regress=dict(share=0.5, learning_rate=2e-3),
            local=dict(share=0.2, learning_rate=2e-3),
            finetune=dict(share=0.1, learning_rate=2e-4),
        )
    )

    config.model = ConfigDict(
        dict(
            backbone="tiny",  # tiny, small, medium or resnet50
            reinitialize="network",  # none (B1), shape (B2) or network (GSR)
            refine="network",  # none, box (G&LSR*) or network (G&LSR)
            kind="affine",  # or similarity
            direction="sampling",  # or normalizing, as the released weights
            local_input="part",  # or face, as the released weights
            margin=1.2,
            reinit_side=128,
            global_side=64,
            local_side=32,
            bgr=False,
        )
    )

    config.data = ConfigDict()
    config.data.root = "data"
    config.data.cache = "~/.cache/jaxlm"
    config.data.crop = "reinit"
    config.data.normalizer = "inter_ocular"
    config.data.threads = 2
    config.data.sources = ConfigDict()
    config.data.sources["300w"] = ConfigDict(
        dict(builder="300w", root="300w", train_split="train", weight=0.6, heldout=0.1, group="", on_bad="error")
    )
    config.data.sources["ytf68"] = ConfigDict(
        dict(
            builder="own",
            root="ytf68",
            train_split="train",
            weight=0.1,
            heldout=0.1,
            group=r"^(.*)_\d+\.",
            on_bad="error",
        )
    )
    config.data.sources["aflw68"] = ConfigDict(
        dict(builder="own", root="aflw68", train_split="train", weight=0.3, heldout=0.0, group="", on_bad="error")
    )

    config.augment = ConfigDict(
        dict(
            # Of OpenCV's detector on 300-W's LFPW; jaxlm detector-boxes --detector=haar measures it.
            box=(-0.002, -0.04, -0.107, -0.049, 0.105, 0.045, 0.101, 0.104),
            box_samples=20,
            label_noise=0.0,  # of the annotations, for Table 1
            rotation=10.0,
            scale=0.0,
            translation=0.0,
            flip=0.5,
            blur=0.0,
            noise=0.0,
            occlusion=0.0,
            color=0.2,
            grey=0.0,
            low_resolution=0.0,
        )
    )

    config.optim = ConfigDict(dict(name="adamw", power=1.0, weight_decay=2e-4, clip_norm=1.0, ema=0.999))
    config.train = ConfigDict(dict(batch_size=32, num_steps=3000, log_every=50, checkpoint_every=1000))
    config.eval = ConfigDict(dict(batch_size=64, flip_average=False, limit=300, full_picture=False))
    config.eval.sets = ("300w:heldout", "ytf68:heldout")  # source:split; the first says which checkpoint is best
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
        config.train.update(dict(num_steps=10, batch_size=8, log_every=2, checkpoint_every=5))
        config.eval.limit = 16
    elif variant:
        apply_row(config, variant, TABLES, ("smoke",))
    return config

"""3DDFA_V2 on real faces with 68 landmarks, to which the parameters are fitted: without 300W-LP.

Paper: Guo et al., ECCV 2020. `data.root` holds `300w/` (300-W's own layout, LFPW alone will do), `ytf68/` and `aflw68/`
(each a `landmarks.csv` beside `images/`), and `tddfa_v2/` with the face model: the 68 landmark vertices `bfm68.npz` and
the released `param_mean_std_62d_120x120.pkl`. Fitting 13,000 faces takes two minutes and is kept. Held out: 10 % of
300-W by image, 10 % of `ytf68` by person.

    python -m jaxlm.commands.fit --config=configs/tddfa_faces68.py --config.data.root=data --out=runs/fits
    python train.py --config=configs/tddfa_faces68.py --workdir=runs/tddfa_faces68 --config.data.root=data
    python eval.py --workdir=runs/tddfa_faces68
    python -m jaxlm.commands.ablation --config=configs/tddfa_faces68.py --table=tddfa_3 --workdir=runs/tddfa_3 \\
        --config.data.root=data

Variants: rows of the paper's Tables 3 and 4 (`jaxlm/systems/tddfa/tables.py`) and `:smoke` (CPU seconds).
"""

from typing import Any

from ml_collections import ConfigDict

from jaxlm.systems.tables import apply_row
from jaxlm.systems.tddfa.tables import TABLES


def get_config(variant: str = "") -> ConfigDict:
    config: Any = ConfigDict()
    config.system = "tddfa"
    config.scheme = "faces68"
    config.seed = 0
    config.image_size = 64  # the paper has 120
    # The face model, under data.root: see jaxlm/face3d/model_files.py. Without statistics they are the training set's.
    config.morphable = ConfigDict(
        dict(
            path="tddfa_v2/bfm68.npz",
            statistics="tddfa_v2/param_mean_std_62d_120x120.pkl",
            identity=40,
            expression=10,
            labels="fitted",  # given: the data set's own; fitted: to its landmarks, see python -m jaxlm.commands.fit
            contour="2d",  # of the landmarks that are fitted: on the outline (2d) or on the jaw (3d)
            max_residual=0.05,  # of a fit, in face sizes; worse ones are left out
        )
    )
    config.loss = ConfigDict(
        dict(
            name="meta_joint",  # fwpdc, wpdc, vdc, vanilla_joint, vdc_from_fwpdc or meta_joint
            landmarks="lrr",  # none, lrr (landmark-regression regularisation) or lmk (landmark constraint)
            vertices=0,  # all of the model's; n: its landmarks and n random others of every step
            beta=0.5,  # of fWPDC in vanilla_joint
            share=0.7,  # of the steps with fWPDC in vdc_from_fwpdc
            squared_weights=True,  # Eq. (6); the first 3DDFA's code does not square them
        )
    )
    # k look-ahead steps; whether a batch at a time is in the device's memory, or a round's k + 1; the branches all at
    # once (vmap), one after the other (map), or each on its own half of the devices (devices).
    config.meta = ConfigDict(dict(k=10, stream=True, branches="map"))
    # Short videos made of every still; train.batch_size counts their frames. Steps between frames, ± uniform.
    config.synthesis = ConfigDict(
        dict(
            mode="video",  # none, video or random (frames that do not follow each other)
            frames=4,
            yaw=3.0,  # degrees
            pitch=1.5,
            roll=1.5,
            scale=0.015,
            translation=0.01,  # of the crop's side
            blur=0.5,  # probability of motion blur
            noise=3.0,  # σ, grey levels
        )
    )

    config.model = ConfigDict(dict(backbone="mobilenet_0.5", num_landmarks=68, bgr=False))

    config.data = ConfigDict()
    config.data.root = "data"
    config.data.cache = "~/.cache/jaxlm"
    config.data.crop = "tddfa_landmarks"
    config.data.normalizer = "points_box"
    config.data.threads = 2
    config.data.sources = ConfigDict()
    config.data.sources["300w"] = ConfigDict(
        dict(builder="300w", root="300w", train_split="train", weight=0.15, heldout=0.1, group="", on_bad="error")
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
        dict(builder="own", root="aflw68", train_split="train", weight=0.75, heldout=0.0, group="", on_bad="error")
    )

    config.augment = ConfigDict(
        dict(
            box=(),
            box_samples=0,
            label_noise=0.0,
            rotation=20.0,
            scale=0.1,
            translation=0.05,
            flip=0.5,
            blur=0.05,
            noise=0.05,
            occlusion=0.1,
            color=0.2,
            grey=0.05,
            low_resolution=0.05,
        )
    )

    config.optim = ConfigDict(
        dict(
            name="adamw",
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=200,
            drop=0.2,
            drop_at=(0.6, 0.8),
            weight_decay=5e-4,
            clip_norm=5.0,
            ema=0.999,
        )
    )
    config.train = ConfigDict(dict(batch_size=32, num_steps=4400, log_every=44, checkpoint_every=1100))
    config.eval = ConfigDict(dict(batch_size=128, flip_average=False, limit=300))
    config.eval.sets = ("300w:heldout", "ytf68:heldout")  # source:split; the first says which checkpoint is best
    config.video = ConfigDict(
        dict(
            crop="tddfa_landmarks",
            min_iou=0.4,  # of successive boxes; less is another face
            batch_size=8,
            chunk=32,  # frames in memory at a time
            clips=2,  # of each set, written as mp4
            methods=("frame", "frame+ema:0.8", "frame+one_euro:2,0.1"),  # frame by frame: there is no state
        )
    )

    if variant == "smoke":
        config.train.update(dict(num_steps=12, batch_size=2, log_every=3, checkpoint_every=6))
        config.meta.update(dict(k=2, stream=False, branches="vmap"))
        config.synthesis.frames = 2
        config.model.backbone = "mobilenet_0.25"
        config.eval.limit = 8
    elif variant:
        apply_row(config, variant, TABLES, ("smoke",))
    return config

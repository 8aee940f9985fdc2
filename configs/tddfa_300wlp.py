"""3DDFA_V2 (Guo et al., ECCV 2020) on 300W-LP, tested on AFLW2000-3D.

Paper: NME 3.51 % on AFLW2000-3D, the mean of the yaw bins (2.63, 3.42, 4.48); 4.43 % on AFLW. One GPU of 8 GB takes
about a day. `data.root` holds `300W_LP/` and `AFLW2000/` as published (jpg and mat side by side) and, for the labels'
62 parameters, `bfm_noneck_v3.pkl` with `tri.pkl` and `param_mean_std_62d_120x120.pkl` of 3DDFA_V2. With the 68 landmark
vertices alone (`bfm68.npz`) everything but dense outputs works.

    python train.py --config=configs/tddfa_300wlp.py --workdir=runs/tddfa --config.data.root=data
    python eval.py --workdir=runs/tddfa

Variants: rows of the paper's Tables 3 and 4 (`jaxlm/systems/tddfa/tables.py`), `:smoke` (CPU seconds), and `:released`, the
network of the released MobileNet × 0.5, for `python -m jaxlm.convert tddfa_v2`.
"""

from typing import Any

from ml_collections import ConfigDict

from jaxlm.systems.tables import apply_row
from jaxlm.systems.tddfa.tables import TABLES


def get_config(variant: str = "") -> ConfigDict:
    config: Any = ConfigDict()
    config.system = "tddfa"
    config.scheme = "faces68"  # of what is trained on; evaluated by aflw21 and aflw19 as well, means of the 68
    config.seed = 0
    config.image_size = 120
    # The face model, under data.root: see jaxlm/face3d/model_files.py. Without statistics they are the training set's.
    config.morphable = ConfigDict(
        dict(
            path="bfm_noneck_v3.pkl",
            statistics="param_mean_std_62d_120x120.pkl",
            identity=40,
            expression=10,
            labels="given",  # given: the data set's own; fitted: to its landmarks, see python -m jaxlm.commands.fit
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
    config.meta = ConfigDict(dict(k=100, stream=True, branches="vmap"))
    # Short videos made of every still; train.batch_size counts their frames. Steps between frames, ± uniform.
    config.synthesis = ConfigDict(
        dict(
            mode="video",  # none, video or random (frames that do not follow each other)
            frames=8,
            yaw=3.0,  # degrees
            pitch=1.5,
            roll=1.5,
            scale=0.015,
            translation=0.01,  # of the crop's side
            blur=0.5,  # probability of motion blur
            noise=3.0,  # σ, grey levels
        )
    )

    config.model = ConfigDict(dict(backbone="mobilenet_1", num_landmarks=68, bgr=False))

    config.data = ConfigDict()
    config.data.root = "data"
    config.data.cache = "~/.cache/jaxlm"
    config.data.crop = "tddfa_landmarks"
    config.data.normalizer = "points_box"
    config.data.threads = 8
    config.data.sources = ConfigDict()
    config.data.sources["300w_lp"] = ConfigDict(
        dict(builder="300w_lp", root="300W_LP", train_split="train", weight=1.0, heldout=0.0, group="", on_bad="error")
    )
    config.data.sources["aflw2000"] = ConfigDict(
        dict(builder="aflw2000", root="AFLW2000", train_split="test", weight=0.0, labels="", on_bad="error")
    )

    # Further test sets: eval.py --data=aflw_crops --config.scheme=aflw21, and --data=menpo3d.
    config.data.sources["aflw_crops"] = ConfigDict(
        dict(builder="aflw_crops", root="AFLW_3ddfa", train_split="test", weight=0.0, on_bad="error")
    )
    config.data.sources["menpo3d"] = ConfigDict(
        dict(builder="menpo3d", root="Menpo3D", train_split="test", weight=0.0, indices="", on_bad="error")
    )

    config.augment = ConfigDict(
        dict(
            box=(),
            box_samples=0,
            label_noise=0.0,
            rotation=10.0,
            scale=0.1,
            translation=0.05,
            flip=0.0,  # 300W-LP holds mirrored faces; given parameters cannot be mirrored
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
            warmup_steps=500,
            drop=0.2,
            drop_at=(0.6, 0.8),
            weight_decay=5e-4,
            clip_norm=5.0,
            ema=0.999,
        )
    )
    config.train = ConfigDict(dict(batch_size=128, num_steps=50500, log_every=101, checkpoint_every=5050))
    config.eval = ConfigDict(dict(batch_size=128, flip_average=False, limit=2000))
    config.eval.sets = ("aflw2000",)
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
    elif variant == "released":
        config.model.update(dict(backbone="mobilenet_0.5", num_landmarks=0, bgr=True))
        config.loss.landmarks = "none"
        config.morphable.path = "bfm68.npz"
    elif variant:
        apply_row(config, variant, TABLES, ("smoke", "released"))
    return config

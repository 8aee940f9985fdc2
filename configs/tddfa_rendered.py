"""3DDFA_V2 on rendered faces with the built-in head: no download, and parameters that are exact.

Paper: Guo et al., ECCV 2020. 2,400 rendered faces, tested on 300 others and on rendered videos, with small images for a
CPU (an hour on two cores for a whole table).

    python train.py --config=configs/tddfa_rendered.py --workdir=runs/tddfa_rendered
    python eval.py --workdir=runs/tddfa_rendered
    python -m jaxlm.commands.ablation --config=configs/tddfa_rendered.py --table=tddfa_3 --workdir=runs/tddfa_3
    python -m jaxlm.commands.ablation --config=configs/tddfa_rendered.py --table=tddfa_4 --workdir=runs/tddfa_4
    python eval.py --workdir=runs/tddfa_4/fwpdc_svs --data=rendered_videos

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
            path="head",
            statistics="",
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
            vertices=100,  # all of the model's; n: its landmarks and n random others of every step
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

    config.model = ConfigDict(dict(backbone="mobilenet_0.25", num_landmarks=68, bgr=False))

    config.data = ConfigDict()
    config.data.root = "data"
    config.data.cache = "~/.cache/jaxlm"
    config.data.crop = "tddfa_landmarks"
    config.data.normalizer = "points_box"
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
            contour="3d",  # landmarks of the jaw, as a morphable model has them
        )
    )
    config.data.sources.rendered_videos = ConfigDict(
        dict(
            builder="rendered_videos",
            root="",
            train_split="hard",
            weight=0.0,
            num_videos=6,
            num_frames=60,
            size=160,
            seed=1,
            contour="3d",
        )
    )

    config.augment = ConfigDict(
        dict(
            box=(),
            box_samples=0,
            label_noise=0.0,
            rotation=20.0,
            scale=0.1,
            translation=0.05,
            flip=0.0,  # given parameters cannot be mirrored
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
    config.train = ConfigDict(dict(batch_size=32, num_steps=1760, log_every=44, checkpoint_every=880))
    config.eval = ConfigDict(dict(batch_size=128, flip_average=False, limit=300))
    config.eval.sets = ("rendered:test",)
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
        config.eval.limit = 8
        config.data.sources.rendered.update(dict(num_train=48, num_test=16))
        config.data.sources.rendered_videos.update(dict(num_videos=1, num_frames=8))
    elif variant:
        apply_row(config, variant, TABLES, ("smoke",))
    return config

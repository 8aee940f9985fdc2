"""LDEQ on rendered faces: the first command of the README. Nothing to download, minutes on two CPU cores.

Paper: Micaelli et al., CVPR 2023. Expect an inter-ocular NME of about 4 % on unseen rendered faces.

    python train.py --config=configs/quickstart.py --workdir=runs/quickstart
    python eval.py --workdir=runs/quickstart

The faces are rendered once into `data.cache`. Variants: `:smoke` (CPU seconds), `:shipped` (about an hour: more faces,
more of them smiling, rougher boxes and colours; the model that the package carries, see docs/shipped.md).
"""

from typing import Any

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    config: Any = ConfigDict()
    config.system = "ldeq"
    config.scheme = "faces68"  # or faces98
    config.seed = 0
    config.image_size = 64
    # On coordinates in units of the image's side: mse, l1, smooth_l1 (with options, beta=0.01 say) or wing (omega=0.04,
    # epsilon=0.01). On heatmaps adaptive_wing as well, with the targets of config.heatmap.
    config.loss = ConfigDict(dict(on="landmarks", name="l1", options=dict()))
    config.heatmap = ConfigDict(dict(sigma=1.0, radius=-1, boundary_sigma=1.0, weight_map="dilated", weight=10.0))
    config.gradient = "jacobian_free"  # implicit, jacobian_free, phantom or unrolled
    config.jacobian_weight = 0.0  # of the Jacobian regularisation

    config.model = ConfigDict(dict(preset="tiny", temperature=2.5, dtype="float32", explicit=False))
    config.solver = ConfigDict(
        dict(name="fixed_point_iteration", tol=5e-3, max_steps=3, relative=True, beta=1.0, memory=6)
    )
    config.adjoint = ConfigDict(dict(name="anderson", tol=5e-3, max_steps=6, relative=True, beta=1.0, memory=6))
    config.phantom = ConfigDict(dict(steps=3, damping=0.8))

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

    config.data.sources.rendered_videos = ConfigDict(
        dict(
            builder="rendered_videos",
            root="",
            train_split="",
            weight=0.0,  # for eval.py --data=rendered_videos
            num_videos=16,
            num_frames=48,
            size=160,
            seed=2,  # β of config.video.solver was chosen on seeds 0 and 1
        )
    )

    config.augment = ConfigDict(
        dict(
            rotation=15.0,
            scale=0.08,
            translation=0.03,
            flip=0.5,
            blur=0.1,
            noise=0.1,
            occlusion=0.4,
            color=0.2,
            grey=0.05,
            low_resolution=0.05,
        )
    )

    config.optim = ConfigDict(
        dict(
            name="adamw",
            learning_rate=2.5e-3,
            weight_decay=1e-4,
            schedule="cosine",
            warmup_steps=100,
            drop_at=(0.6, 0.85),
            drop=0.1,
            clip_norm=1.0,
            ema=0.995,
        )
    )
    config.train = ConfigDict(dict(batch_size=32, num_steps=1350, log_every=50, checkpoint_every=450))
    config.eval = ConfigDict(dict(batch_size=64, flip_average=True, limit=200))
    config.eval.sets = ("rendered:test",)  # source:split; the first says which checkpoint is best
    config.video = ConfigDict(
        dict(
            crop="ldeq_video",
            # Of a frame that follows another: a third of a step, then a whole one. A frame without a past takes
            # config.solver with up to still_steps.
            solver=dict(name="fixed_point_iteration", tol=5e-3, max_steps=2, relative=True, beta=0.3, memory=6),
            still_steps=10,
            alpha=0.1,  # of Eq. (8), with energy_steps of L-BFGS
            energy_steps=10,
            max_residual=0.9,  # of the last equilibrium at a frame; more is a scene cut
            min_iou=0.4,  # of successive boxes; less is another face
            batch_size=8,
            chunk=32,  # frames in memory at a time
            clips=2,  # of each set, written as mp4
            methods=(
                "frame",
                "early",
                "rwr",
                "energy",
                "frame+ema:0.9",
                "frame+ema:0.8",
                "frame+ema:0.7",
                "frame+ema:0.5",
                "frame+ema_score:0.8",
                "frame+savgol:7,2",
                "frame+savgol_causal:7,1",
                "frame+one_euro:2,0.1",
            ),
        )
    )

    if variant == "smoke":
        config.optim.warmup_steps = 2
        config.model.preset = "nano"
        config.train.update(dict(num_steps=6, batch_size=8, log_every=2, checkpoint_every=3))
        config.data.sources.rendered.update(dict(num_train=48, num_test=16))
        config.data.sources.rendered_videos.update(dict(num_videos=2, num_frames=8))
    elif variant == "shipped":
        config.train.update(dict(num_steps=7000, checkpoint_every=1000, log_every=100))
        config.data.sources.rendered.update(dict(num_train=8000, num_test=500, grins=0.3))
        config.augment.update(
            dict(rotation=20.0, scale=0.14, translation=0.06, blur=0.15, color=0.35, grey=0.15, low_resolution=0.15)
        )
    elif variant:
        raise ValueError(f"There is no variant {variant!r}; choose smoke or shipped.")
    return config

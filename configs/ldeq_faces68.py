"""LDEQ on a mixture of real 68-point faces: a 300-W folder and two CSV files, for a CPU.

Paper: Micaelli et al., CVPR 2023. `data.root` holds `300w/` (300-W's own layout, LFPW alone will do), `ytf68/` and
`aflw68/` (each a `landmarks.csv` beside `images/`). Held out: 10 % of 300-W by image, 10 % of `ytf68` by person.

    python train.py --config=configs/ldeq_faces68.py --workdir=runs/faces68 --config.data.root=data
    python eval.py --workdir=runs/faces68

Variants: `:smoke` (CPU seconds), `:gpu` (the paper's network at 256×256, bfloat16, implicit gradients), `:awing`
(Adaptive Wing and its weight map on the equilibrium's heatmaps instead of L1 on its landmarks).
"""

from typing import Any

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    config: Any = ConfigDict()
    config.system = "ldeq"
    config.scheme = "faces68"
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
        dict(name="fixed_point_iteration", tol=5e-3, max_steps=2, relative=True, beta=1.0, memory=6)
    )
    config.adjoint = ConfigDict(dict(name="anderson", tol=5e-3, max_steps=6, relative=True, beta=1.0, memory=6))
    config.phantom = ConfigDict(dict(steps=3, damping=0.8))

    config.data = ConfigDict()
    config.data.root = "data"
    config.data.cache = "~/.cache/jaxlm"
    config.data.crop = "gt"
    config.data.normalizer = "inter_ocular"
    config.data.threads = 2
    config.data.sources = ConfigDict()
    config.data.sources["300w"] = ConfigDict(
        dict(builder="300w", root="300w", train_split="train", weight=0.4, heldout=0.1, group="", on_bad="error")
    )
    config.data.sources["ytf68"] = ConfigDict(
        dict(
            builder="own",
            root="ytf68",
            train_split="train",
            weight=0.2,
            heldout=0.1,
            group=r"^(.*)_\d+\.",
            on_bad="error",
        )
    )
    config.data.sources["aflw68"] = ConfigDict(
        dict(builder="own", root="aflw68", train_split="train", weight=0.4, heldout=0.0, group="", on_bad="error")
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
            name="adamw",
            learning_rate=2e-3,
            weight_decay=1e-4,
            schedule="cosine",
            warmup_steps=200,
            drop_at=(0.6, 0.85),
            drop=0.1,
            clip_norm=1.0,
            ema=0.999,
        )
    )
    config.train = ConfigDict(dict(batch_size=32, num_steps=7500, log_every=50, checkpoint_every=1500))
    config.eval = ConfigDict(dict(batch_size=64, flip_average=True, limit=300))
    config.eval.sets = (
        "300w:heldout",
        "ytf68:heldout",
    )  # source:split; the first says which checkpoint is best
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
        config.eval.limit = 16
    elif variant == "gpu":
        config.image_size = 256
        config.gradient = "implicit"
        config.model.update(dict(preset="paper", dtype="bfloat16"))
        config.solver.update(dict(name="anderson", max_steps=10))
        config.optim.update(dict(learning_rate=3e-4, warmup_steps=500))
        config.train.update(dict(batch_size=32, num_steps=20000, checkpoint_every=2000))
        config.data.threads = 16
    elif variant == "awing":
        config.loss = ConfigDict(
            dict(on="heatmaps", name="adaptive_wing", options=dict(alpha=2.1, omega=14.0, epsilon=1.0, theta=0.5))
        )
    elif variant:
        raise ValueError(f"There is no variant {variant!r}; choose smoke, gpu or awing.")
    return config

"""Every key of a boundary-aware hourglass's config with its meaning; the defaults follow Wang et al., ICCV 2019."""

import dataclasses
from typing import Any

from jaxlm import config as shared


@dataclasses.dataclass
class Model(shared.Block):
    """The network, see `jaxlm.systems.awing.network.StackedHourglass`."""

    stacks: int = 4
    features: int = 256
    depth: int = 4  # halvings of the map in each hourglass
    boundary: bool = True  # whether the boundary is a further channel
    coordinates: bool = True  # CoordConv
    boundary_coordinates: bool = True  # Eq. (6)
    temperature: float = 0.0  # of the soft-argmax, for a loss on landmarks
    remat: bool = False  # whether hourglasses are computed again in the backward pass, to save memory
    dtype: str = "bfloat16"  # of the computation: float32 or bfloat16


@dataclasses.dataclass
class Heatmap(shared.Heatmap):
    """Targets, and how landmarks are read from heatmaps."""

    radius: int = 3  # 7 × 7 cells
    boundary_sigma: float = 1.5
    decode_radius: int = 2  # of decode = local_soft_argmax


def adaptive_wing() -> dict[str, Any]:
    """`config.loss` for the Adaptive Wing loss with the paper's α, ω, ε and θ."""
    return dict(on="heatmaps", name="adaptive_wing", options=dict(alpha=2.1, omega=14.0, epsilon=1.0, theta=0.5))


@dataclasses.dataclass
class Awing(shared.Experiment):
    """An experiment with the system "awing"."""

    system: str = "awing"
    loss: shared.Loss = dataclasses.field(default_factory=lambda: shared.Loss(**adaptive_wing()))
    heatmap: Heatmap = dataclasses.field(default_factory=Heatmap)
    decode: str = "quarter_pixel"  # or soft_argmax, local_soft_argmax
    model: Model = dataclasses.field(default_factory=Model)
    # Section 7.3 gives the geometry; how often pictures are blurred, noised and occluded is not published.
    augment: shared.Augment = dataclasses.field(
        default_factory=lambda: shared.Augment(
            rotation=50.0, scale=0.15, translation=25 / 256, blur=0.2, noise=0.2, occlusion=0.4
        )
    )
    optim: shared.Optim = dataclasses.field(
        default_factory=lambda: shared.Optim(
            name="rmsprop",
            learning_rate=1e-4,
            weight_decay=1e-5,
            schedule="steps",
            warmup_steps=0,
            drop_at=(1 / 3, 2 / 3),  # epochs 80 and 160 of 240
            clip_norm=0.0,
            ema=0.0,
        )
    )
    train: shared.Train = dataclasses.field(default_factory=lambda: shared.Train(batch_size=16, checkpoint_every=5000))
    eval: shared.Eval = dataclasses.field(default_factory=lambda: shared.Eval(batch_size=32))


Config = Awing


def default_config() -> Config:
    """The paper's network and optimiser; an experiment adds data sets and the length of the training."""
    return shared.to_config(Awing())


def shrink_to_smoke(config: Any) -> None:
    """A run of CPU seconds."""
    config.image_size = 64
    config.model.update(stacks=2, features=16, depth=1, dtype="float32")
    config.data.threads = 2
    config.train.update(num_steps=6, batch_size=8, log_every=2, checkpoint_every=3)
    config.eval.limit = 16


def shrink_to_cpu(config: Any) -> None:
    """A small network on 96 × 96 pixels, which two CPU cores train in half an hour."""
    config.image_size = 96
    config.heatmap.update(sigma=1.5, radius=-1, boundary_sigma=1.0)
    config.model.update(stacks=2, features=32, depth=3, dtype="float32")
    config.data.threads = 2
    config.augment.update(
        rotation=25.0, scale=0.1, translation=0.04, blur=0.1, noise=0.1, occlusion=0.3, color=0.3, grey=0.1
    )
    config.augment.low_resolution = 0.1
    config.optim.update(learning_rate=6e-3, warmup_steps=100, drop_at=(0.6, 0.85), drop=0.2, ema=0.99)
    config.train.checkpoint_every = 1000
    config.eval.update(batch_size=64, flip_average=True, limit=300)

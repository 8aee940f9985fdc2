"""Every key of a 3DDFA_V2's config with its meaning; the defaults are those of Guo et al., ECCV 2020."""

import dataclasses
from typing import Any

from jaxlm import config as shared
from jaxlm.face3d.model_files import Morphable


@dataclasses.dataclass
class Loss(shared.Block):
    """The losses, see `jaxlm.systems.tddfa.costs`."""

    name: str = "meta_joint"  # fwpdc, wpdc, vdc, vanilla_joint, vdc_from_fwpdc or meta_joint
    landmarks: str = "lrr"  # none, lrr (landmark-regression regularisation) or lmk (landmark constraint)
    vertices: int = 0  # 0: all of the model's; n: its landmarks and n random others in every step
    beta: float = 0.5  # of fWPDC in vanilla_joint
    share: float = 0.7  # of the steps with fWPDC in vdc_from_fwpdc
    squared_weights: bool = True  # Eq. (6); the first 3DDFA's code does not square them


@dataclasses.dataclass
class Meta(shared.Block):
    """Meta-joint optimisation, Algorithm 1, see `jaxlm.systems.tddfa.lookahead`."""

    k: int = 100  # look-ahead steps
    branches: str = "vmap"  # run at once (vmap), one after the other (map), or on half of the devices each (devices)


@dataclasses.dataclass
class Synthesis(shared.Block):
    """Short videos made of every still, section 2.4; train.batch_size counts their frames."""

    mode: str = "video"  # none, video or random (frames that do not follow each other)
    frames: int = 8
    yaw: float = 3.0  # ± degrees between frames, uniform
    pitch: float = 1.5
    roll: float = 1.5
    scale: float = 0.015
    translation: float = 0.01  # of the crop's side
    blur: float = 0.5  # probability of motion blur
    noise: float = 3.0  # σ, grey levels


@dataclasses.dataclass
class Model(shared.Block):
    """The network, see `jaxlm.systems.tddfa.network.ParameterNetwork`."""

    backbone: str = "mobilenet_1"  # a key of jaxlm.systems.tddfa.network.BACKBONES
    num_landmarks: int = 68  # of the landmark branch; 0 for none
    bgr: bool = False  # whether the network sees blue first, as the released weights


@dataclasses.dataclass
class Tddfa(shared.Experiment):
    """An experiment with the system "tddfa"."""

    system: str = "tddfa"
    scheme: str = "faces68"  # of the training; aflw21 and aflw19, means of the 68, are evaluated as well
    image_size: int = 120
    morphable: Morphable = dataclasses.field(default_factory=Morphable)
    loss: Loss = dataclasses.field(default_factory=Loss)
    meta: Meta = dataclasses.field(default_factory=Meta)
    synthesis: Synthesis = dataclasses.field(default_factory=Synthesis)
    model: Model = dataclasses.field(default_factory=Model)
    data: shared.Data = dataclasses.field(
        default_factory=lambda: shared.Data(crop="tddfa_landmarks", normalizer="points_box", threads=8)
    )
    augment: shared.Augment = dataclasses.field(
        default_factory=lambda: shared.Augment(
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
    optim: shared.Optim = dataclasses.field(
        default_factory=lambda: shared.Optim(
            learning_rate=1e-3, weight_decay=5e-4, clip_norm=5.0, drop_at=(0.6, 0.8), drop=0.2
        )
    )
    train: shared.Train = dataclasses.field(
        default_factory=lambda: shared.Train(batch_size=128, num_steps=50_500, log_every=101, checkpoint_every=5050)
    )
    eval: shared.Eval = dataclasses.field(default_factory=lambda: shared.Eval(batch_size=128, limit=2000))
    video: shared.Video = dataclasses.field(default_factory=lambda: shared.Video(crop="tddfa_landmarks"))


Config = Tddfa


def default_config() -> Config:
    """The paper's network and losses; an experiment adds data sets."""
    return shared.to_config(Tddfa())


def shrink_to_smoke(config: Any) -> None:
    """A run of CPU seconds."""
    config.train.update(num_steps=12, batch_size=2, log_every=3, checkpoint_every=6)
    config.meta.update(k=2, branches="vmap")
    config.synthesis.frames = 2
    config.eval.limit = 8


def shrink_to_cpu(config: Any) -> None:
    """A small network on 64 × 64 pixels with ten look-ahead steps."""
    config.image_size = 64
    config.meta.update(k=10, branches="map")
    config.synthesis.frames = 4
    config.data.threads = 2
    config.augment.rotation = 20.0
    config.optim.warmup_steps = 200
    config.train.update(batch_size=32, log_every=44)
    config.eval.limit = 300

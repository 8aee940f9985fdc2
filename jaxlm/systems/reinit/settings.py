"""Every key of a re-initialisation's config with its meaning; the defaults follow Shao et al., TPAMI 2021.

The paper trains for 150 epochs of 20 perturbed boxes per picture in batches of 64, which `config.phases` shares out to
the four steps. Its networks start from ImageNet weights, which are not part of this package.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxlm import config as shared
from jaxlm.systems.reinit.tables import TABLES
from jaxlm.systems.tables import rows_of

# Means and standard deviations of OpenCV's detector on 300-W's LFPW, by `jaxlm detector-boxes --detector=haar`.
HAAR_BOXES = (-0.002, -0.04, -0.107, -0.049, 0.105, 0.045, 0.101, 0.104)


@dataclasses.dataclass
class Phase(shared.Block):
    """One of the training steps."""

    share: float  # of the training's length, relative to the other steps
    learning_rate: float = 0.01  # at its beginning; it decays to zero within the step


@dataclasses.dataclass
class Phases(shared.Block):
    """The four training steps. How they share the 150 epochs is not in the paper."""

    reinit: Phase = dataclasses.field(default_factory=lambda: Phase(0.2))
    regress: Phase = dataclasses.field(default_factory=lambda: Phase(0.4))
    local: Phase = dataclasses.field(default_factory=lambda: Phase(0.2))
    finetune: Phase = dataclasses.field(default_factory=lambda: Phase(0.2, learning_rate=0.001))


@dataclasses.dataclass
class Model(shared.Block):
    """The network, see `jaxlm.systems.reinit.network.ProgressiveNetwork`."""

    backbone: str = "small"  # nano, tiny, small, medium or resnet50
    reinitialize: str = "network"  # none (B1), shape (B2) or network (GSR)
    refine: str = "network"  # none, box (G&LSR*) or network (G&LSR)
    kind: str = "affine"  # or similarity
    direction: str = "sampling"  # or normalizing, as the released weights
    local_input: str = "part"  # or face, as the released weights
    margin: float = 1.2  # of the mean shape in the normalised face
    reinit_side: int = 128  # pixels that the localization network sees
    global_side: int = 256  # of the normalised face
    local_side: int = 64  # of the normalised parts
    bgr: bool = False  # whether the network sees blue first, as the released weights


@dataclasses.dataclass
class Optim(shared.Optimizer):
    """The optimiser; `phases` has the learning rates."""

    name: str = "momentum"
    weight_decay: float = 2e-4
    clip_norm: float = 0.0
    ema: float = 0.0
    power: float = 1.0  # of the polynomial decay


@dataclasses.dataclass
class Eval(shared.Eval):
    """Validation and evaluation."""

    full_picture: bool = True  # whether the normalised face is taken from the picture itself, not from the crop


@dataclasses.dataclass
class Reinit(shared.Experiment):
    """An experiment with the system "reinit"."""

    system: str = "reinit"
    # On landmarks in units of the inter-ocular distance; those of the parts in half sides of their patch. unit: what
    # Eq. (9) multiplies the errors by, about which the paper is silent; see docs/reinit.md.
    loss: shared.Loss = dataclasses.field(
        default_factory=lambda: shared.Loss(name="adaptive_l1", options=dict(unit=5.0))
    )
    phases: Phases = dataclasses.field(default_factory=Phases)
    model: Model = dataclasses.field(default_factory=Model)
    data: shared.Data = dataclasses.field(default_factory=lambda: shared.Data(crop="reinit"))
    augment: shared.Augment = dataclasses.field(
        default_factory=lambda: shared.Augment(box=HAAR_BOXES, box_samples=20, rotation=10.0)
    )
    optim: Optim = dataclasses.field(default_factory=Optim)
    train: shared.Train = dataclasses.field(
        default_factory=lambda: shared.Train(batch_size=64, log_every=100, checkpoint_every=10_000)
    )
    eval: Eval = dataclasses.field(default_factory=Eval)


Config = Reinit


def default_config() -> Config:
    """The small network; an experiment adds data sets and the length of the training."""
    return shared.to_config(Reinit())


def shrink_to_smoke(config: Any) -> None:
    """A run of CPU seconds."""
    config.image_size = 128
    config.model.update(backbone="nano", global_side=64, local_side=32)
    config.data.threads = 2
    config.train.update(num_steps=10, batch_size=8, log_every=2, checkpoint_every=5)
    config.eval.limit = 16


def shrink_to_cpu(config: Any) -> None:
    """A small network on a normalised face of 64 × 64 pixels."""
    config.image_size = 128
    config.phases.reinit.update(share=0.3, learning_rate=2e-3)
    config.phases.regress.update(share=0.5, learning_rate=2e-3)
    config.phases.local.update(share=0.2, learning_rate=2e-3)
    config.phases.finetune.update(share=0.1, learning_rate=2e-4)
    config.model.update(backbone="tiny", global_side=64, local_side=32)
    config.data.threads = 2
    config.augment.color = 0.2
    config.optim.update(name="adamw", clip_norm=1.0, ema=0.999)
    config.train.update(batch_size=32, num_steps=3000, log_every=50, checkpoint_every=1000)
    config.eval.update(full_picture=False, limit=300)


def paper_variants() -> dict[str, Callable[[Any], None]]:
    """Variants of the paper's own configs: smoke, the three sizes, and the rows of the tables."""
    sizes = {"small": small, "medium": medium, "large": large}
    return {"smoke": shrink_to_smoke, **rows_of(TABLES), **sizes}


def small(config: Any) -> None:
    """Small MobileNetV2, Table 2."""
    config.model.backbone = "small"


def medium(config: Any) -> None:
    """Medium MobileNetV2."""
    config.model.backbone = "medium"


def large(config: Any) -> None:
    """ResNet-50; the paper gives it no local stage."""
    config.model.update(backbone="resnet50", refine="none")

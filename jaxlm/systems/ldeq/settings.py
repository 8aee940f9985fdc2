"""Every key of an LDEQ's config with its meaning; the defaults are those of Micaelli et al., CVPR 2023.

Learning rate, batch size, epochs and the ranges of the augmentation are not in the paper; these are ours.
"""

import dataclasses
from typing import Any

from jaxlm import config as shared


@dataclasses.dataclass
class Model(shared.Block):
    """The network, see `jaxlm.systems.ldeq.network`."""

    preset: str = "paper"  # a key of jaxlm.systems.ldeq.network.PRESETS: paper, small, tiny, slim or nano
    temperature: float = 2.5  # T of Eq. (3)
    dtype: str = "bfloat16"  # of the computation: float32 or bfloat16
    explicit: bool = False  # as many stacked copies of the cell as solver.max_steps, without a fixed point
    untied: bool = False  # whether each of these copies has parameters of its own
    released: bool = False  # heatmap cell c is image pixel 4c, group norm's ε 1e-5, as in the released model


@dataclasses.dataclass
class Solver(shared.Block):
    """A fixed-point solver, see `jaxlm.solvers`."""

    name: str = "anderson"  # fixed_point_iteration, anderson or broyden; gmres for the adjoint
    tol: float = 1e-2  # of the residual; the rounding of bfloat16 leaves about 5e-3, the released model's tolerance
    max_steps: int = 10
    relative: bool = True  # whether the residual is divided by ‖f(z)‖
    beta: float = 1.0  # damping: the share of f(z) in a step
    memory: int = 6  # past iterates of anderson, broyden and gmres
    unroll: bool = False  # computes all steps without a loop, for exports; a sample that has converged stays as it is


@dataclasses.dataclass
class Phantom(shared.Block):
    """The phantom gradient: some damped applications of f after the solver."""

    steps: int = 3
    damping: float = 0.8


@dataclasses.dataclass
class Video(shared.Video):
    """Recurrence without recurrence, section 4 of the paper."""

    # Of a frame that follows another. A frame without a past takes config.solver, with up to still_steps.
    solver: Solver = dataclasses.field(default_factory=lambda: Solver(name="fixed_point_iteration", max_steps=2))
    still_steps: int = 0  # 0 for solver.max_steps, as a still
    alpha: float = 0.1  # of Eq. (8)
    energy_steps: int = 10  # of L-BFGS
    max_residual: float = 0.9  # of the last equilibrium at a frame; with more it starts anew
    # Of jaxlm.video.trackers and filters: what Figure 5 of the paper compares.
    methods: tuple[str, ...] = (
        *("frame", "early", "rwr", "rwr:2", "energy", "heatmap_ema:0.7", "heatmap_ema:0.5"),
        *("frame+ema:0.9", "frame+ema:0.8", "frame+ema:0.7", "frame+ema:0.5", "frame+ema_score:0.8"),
        *("frame+savgol:7,2", "frame+savgol_causal:7,1", "frame+one_euro:2,0.1"),
    )


@dataclasses.dataclass
class Ldeq(shared.Experiment):
    """An experiment with the system "ldeq"."""

    system: str = "ldeq"
    loss: shared.Loss = dataclasses.field(default_factory=shared.Loss)
    heatmap: shared.Heatmap = dataclasses.field(default_factory=shared.Heatmap)  # for loss.on = heatmaps
    gradient: str = "implicit"  # implicit, jacobian_free, phantom or unrolled, see jaxlm.implicit
    jacobian_weight: float = 0.0  # of the Jacobian regularisation
    model: Model = dataclasses.field(default_factory=Model)
    solver: Solver = dataclasses.field(default_factory=Solver)
    adjoint: Solver = dataclasses.field(default_factory=Solver)  # of the implicit gradient
    # What to do with the samples whose adjoint did not converge: keep its best iterate, take the phantom gradient or
    # gmres instead, or stop the training.
    unconverged: str = "keep"
    phantom: Phantom = dataclasses.field(default_factory=Phantom)
    augment: shared.Augment = dataclasses.field(
        default_factory=lambda: shared.Augment(
            rotation=30.0, scale=0.1, translation=0.05, blur=0.3, occlusion=0.4, color=0.3, grey=0.1
        )
    )
    optim: shared.Optim = dataclasses.field(default_factory=shared.Optim)
    video: Video = dataclasses.field(default_factory=Video)


Config = Ldeq


def default_config() -> Config:
    """The paper's network; an experiment adds data sets and the length of the training."""
    return shared.to_config(Ldeq())


def shrink_to_smoke(config: Any) -> None:
    """A run of CPU seconds."""
    config.image_size = 64
    config.model.update(preset="nano", dtype="float32")
    config.optim.warmup_steps = 2
    config.data.threads = 2
    config.train.update(num_steps=6, batch_size=8, log_every=2, checkpoint_every=3)
    config.eval.limit = 16


def shrink_to_cpu(config: Any) -> None:
    """A network of 0.3 million parameters on 64 × 64 pixels, which two CPU cores train in minutes."""
    config.image_size = 64
    config.loss.name = "l1"
    config.gradient = "jacobian_free"
    config.model.update(preset="tiny", dtype="float32")
    config.solver.update(name="fixed_point_iteration", tol=5e-3)
    config.adjoint.update(max_steps=6, tol=5e-3)
    config.video.solver.tol = 5e-3
    config.video.solver.max_steps = 1  # chosen on rendered videos, see docs/video.md
    config.heatmap.sigma = 1.0
    config.data.threads = 2
    config.train.cpu_devices = 2  # 1.4 to 1.6 × the speed of one, benchmarks/step.py
    config.eval.flip_average = True

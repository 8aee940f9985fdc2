"""Systems: what one paper adds up to, as a handful of pure functions. `jaxlm.training` knows nothing else about one."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxlm.config import Config


class TrainState(NamedTuple):
    """Everything that training changes.

    Attributes:
        step: (), optimiser steps taken.
        params: parameters.
        batch_stats: running statistics of batch norms.
        ema: {"params", "batch_stats"}, the exponential moving average of both, which predicts.
        opt_state: of optax.
    """

    step: Array
    params: Any
    batch_stats: Any
    ema: dict[str, Any]
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `System.predict` takes."""
        return self.ema


def initial_state(variables: Mapping[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first step, of freshly initialised {"params", "batch_stats"}."""
    live = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        **live,
        ema=jax.tree.map(jnp.copy, live),
        opt_state=optimizer.init(live["params"]),
    )


class Prediction(NamedTuple):
    """Landmarks of a batch.

    Attributes:
        landmarks: (B, K, 2) in pixels of the crop; (B, T, K, 2) for videos, and so on.
        score: (B, K) in (0, 1], higher where the landmark is surer.
        aux: arrays (B, ...) of the system's own, for inspection.
    """

    landmarks: Float[Array, "*B K 2"]
    score: Float[Array, "*B K"]
    aux: dict[str, Array]


class Phase(NamedTuple):
    """A step of a training schedule.

    Attributes:
        name: for the log.
        last_step: the optimiser step that it ends with.
        train_step: see `System`.
    """

    name: str
    last_step: int
    train_step: Callable[[TrainState, dict[str, Array], Array], tuple[TrainState, dict[str, Array]]]


class Halves(NamedTuple):
    """A system that normalises a face before it looks for landmarks, cut in two, so that between the halves the
    normalised face can be taken from the picture itself instead of from the crop.

    Attributes:
        side: of the normalised face in pixels.
        locate: (variables, images (B, S, S, 3) in [0, 255]) -> (B, 2, 3), crop pixels → pixels of the normalised face.
        regress: (variables, normalised faces (B, side, side, 3)) -> Prediction in their pixels.
    """

    side: int
    locate: Callable[[Any, Array], Array]
    regress: Callable[[Any, Array], Prediction]


class System(NamedTuple):
    """Pure functions of one experiment.

    Attributes:
        init: rng -> TrainState.
        train_step: (state, batch, rng) -> (state, logs), logs a dict of scalars with "loss", "nme", "grad_norm";
            to be jitted with the state donated.
        predict: (variables, images (B, H, W, 3) in [0, 255]) -> Prediction.
        track: for a system with a state: (method, variables, image (B, T, H, W, 3), restart (B, T), exists (B, T),
            past or None) -> (Prediction with leaves (B, T, ...), past of the next frame). Methods are "frame", each
            frame on its own, "early", the same with the few steps of RwR, and "rwr" and "energy"; see `jaxlm.video`.
        phases: for a system that is trained in several steps, in order; `train_step` is the last one's.
        fit: for a system with constants of the training set: (state, labels) -> state, called once before the first
            step; labels of N faces are "landmarks" (N, K, 2) and "mask" (N, K) in their pictures' pixels and, where
            the faces have them, "params" (N, P) in the frame of their crops.
        halves: for a system that can take the full picture.
        batches_per_step: how many batches `train_step` takes at once, stacked along a leading axis; 0 is one, without
            that axis. Steps are counted in batches.
        last_of_round: (n, step): every n-th step is taken by this function instead of `train_step`.
        mesh: () -> mesh of the devices with an axis "data"; all of them along that axis where it is None.
    """

    init: Callable[[Array], TrainState]
    train_step: Callable[[TrainState, dict[str, Array], Array], tuple[TrainState, dict[str, Array]]]
    predict: Callable[[Any, Array], Prediction]
    track: Callable[..., tuple[Prediction, Any]] | None = None
    phases: tuple[Phase, ...] = ()
    fit: Callable[[TrainState, dict[str, np.ndarray]], TrainState] | None = None
    halves: Halves | None = None
    batches_per_step: int = 0
    last_of_round: (
        tuple[int, Callable[[TrainState, dict[str, Array], Array], tuple[TrainState, dict[str, Array]]]] | None
    ) = None
    mesh: Callable[[], jax.sharding.Mesh] | None = None


# The module of each system, which holds `build(config) -> System`; imported when it is asked for.
SYSTEMS: dict[str, str] = {name: f"jaxlm.systems.{name}" for name in ("awing", "ldeq", "reinit", "tddfa")}


def build(config: Config) -> System:
    """The system that `config.system` names.

    Raises:
        ValueError: naming those that exist.
    """
    name: str = config.system
    module = SYSTEMS.get(name, name)
    if "." not in module and module not in SYSTEMS.values():
        raise ValueError(
            f"There is no system {config.system!r}; choose one of {', '.join(SYSTEMS)}, or name a module of your own, "
            "as in my_package.my_system."
        )
    try:
        return importlib.import_module(module).build(config)
    except ModuleNotFoundError as error:
        raise ValueError(f"The system {config.system!r} cannot be imported: {error}.") from None

"""The contract of a system: pure functions that train and predict, and what other rooms need to know of it."""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float


class TrainState(NamedTuple):
    """Everything that changes in training.

    Attributes:
        step: (), number of batches seen.
        params: parameters.
        batch_stats: running statistics of batch norms, and constants of the training set.
        ema: {"params", "batch_stats"}, the exponential moving average of both, which predicts.
        opt_state: state of the optax optimiser.
    """

    step: Array
    params: Any
    batch_stats: Any
    ema: dict[str, Any]
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The averaged parameters and statistics, as `System.predict` takes them."""
        return self.ema


def initial_state(variables: Mapping[str, Any], optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first step, made of freshly initialised {"params", "batch_stats"}."""
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
        landmarks: (B, K, 2) in pixels of the crop; (B, T, K, 2) for videos.
        score: (B, K) in (0, 1], higher where the landmark is more certain.
        aux: further arrays (B, ...) that the system offers for inspection.
    """

    landmarks: Float[Array, "*B K 2"]
    score: Float[Array, "*B K"]
    aux: dict[str, Array]


# (state, batch, rng) -> (state, logs); logs are scalars, with "loss" and "nme"
TrainStep = Callable[[TrainState, dict[str, Array], Array], tuple[TrainState, dict[str, Array]]]


class Halves(NamedTuple):
    """A system that normalises a face before it looks for landmarks, cut in two. Between the halves the normalised face
    can be sampled from the picture itself instead of from the crop.

    Attributes:
        side: of the normalised face in pixels.
        locate: (variables, images (B, S, S, 3) in [0, 255]) -> (B, 2, 3), crop pixels → pixels of the normalised face.
        regress: (variables, normalised faces (B, side, side, 3)) -> Prediction in their pixels.
    """

    side: int
    locate: Callable[[Any, Array], Array]
    regress: Callable[[Any, Array], Prediction]


OUTPUTS = {
    "landmarks": "x, y in pixels of the input; (0, 0) is the centre of its first pixel",
    "score": "in (0, 1], higher where a landmark is more certain",
}


class System(NamedTuple):
    """Pure functions of one experiment.

    Attributes:
        init: rng -> TrainState.
        train_step: (state, batch, rng) -> (state, logs), jitted with the state donated.
        predict: (variables, images (B, H, W, 3) in [0, 255]) -> Prediction.
        track: for a system with a state over time: (method, variables, image (B, T, H, W, 3), restart (B, T),
            exists (B, T), past or None) -> (Prediction with leaves (B, T, ...), past of the next frame). The methods
            are those of `jaxlm.video.trackers`.
        schedule: for a system whose training steps differ: number of the batch, from 1 -> (name of the phase, the step
            that takes this batch). Equal steps are the same function, which is compiled once.
        fit: for a system with constants of the training set: (state, labels) -> state, called once before the first
            step. The labels of N faces are "landmarks" (N, K, 2) and "mask" (N, K) in pixels of their pictures and,
            where the faces have them, "params" (N, P) in the frame of their crops.
        halves: for a system that can sample the full picture.
        outputs: name -> meaning of the arrays that an exported model returns: "landmarks", "score" and keys of
            `Prediction.aux`.
        loop_steps: iterations of the loops in `predict`, for counts of multiply-adds.
        round: number of batches between two states that can be saved.
        mesh: () -> mesh of the devices with an axis "data"; all devices along that axis where it is None.
        check: for a system that can fail with finite numbers: logs of a step, as floats -> what is wrong and the remedy
            if training must stop, else None.
    """

    init: Callable[[Array], TrainState]
    train_step: TrainStep
    predict: Callable[[Any, Array], Prediction]
    track: Callable[..., tuple[Prediction, Any]] | None = None
    schedule: Callable[[int], tuple[str, TrainStep]] | None = None
    fit: Callable[[TrainState, dict[str, np.ndarray]], TrainState] | None = None
    halves: Halves | None = None
    outputs: Mapping[str, str] = OUTPUTS
    loop_steps: int = 1
    round: int = 1
    mesh: Callable[[], jax.sharding.Mesh] | None = None
    check: Callable[[Mapping[str, float]], str | None] | None = None


def initialize(system: System, rng: Array) -> TrainState:
    """State before the first step, of `system.init`, jitted.

    On a CPU it is compiled with less optimisation, which gives the same bits, unless XLA_FLAGS says how much. It would
    take longer than the compilation of the training step.
    """
    level = "xla_backend_optimization_level"
    less = jax.default_backend() == "cpu" and level not in os.environ.get("XLA_FLAGS", "")
    return jax.jit(system.init, compiler_options={level: 1} if less else None)(rng)

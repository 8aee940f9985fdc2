"""Recurrence without recurrence (RwR): stable landmarks on video from a model that was trained on stills.

Micaelli et al., CVPR 2023, section 4. The wanted fixed point of f(·, xₙ) is the one nearest to that of the previous
frame (Eq. 6). A relaxation is the minimum of an energy (Eq. 8), which `jaxlm.video.energy.minimize_energy` finds by
L-BFGS. `rwr` has the same effect at a lower cost: the solver starts at the previous frame's equilibrium and stops
early, which acts as the prior of Eq. (9b). z may be any pytree with a leading batch axis.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, PyTree, Shaped

# (z, frame) -> (equilibrium, residual (B,) of the given z at this frame, output): solves one frame from z.
Step = Callable[[Any, Any], tuple[Any, Array, Any]]


class Tracking(NamedTuple):
    """State of each video that the next frame starts from.

    Attributes:
        z: leaves (B, ...), equilibrium of the previous frame.
        started: (B,) whether to start from `z`. It is false before the first frame, after a frame that does not exist
            and after a frame whose residual is not finite.
    """

    z: PyTree
    started: Bool[Array, " B"]


class Tracked(NamedTuple):
    """Result of one frame of each video, or of all frames with a time axis after B.

    Attributes:
        output: output of the step.
        residual: (B,) or (B, T), residual at this frame of the z that the solver started from.
        restarted: (B,) or (B, T), true where the solver started from `z0` instead of the previous frame's equilibrium.
    """

    output: Any
    residual: Shaped[Array, "*BT"]
    restarted: Bool[Array, "*BT"]


def begin(z0: PyTree) -> Tracking:
    """State before the first frame; `z0` is the first iterate for stills, leaves (B, ...)."""
    return Tracking(z0, jnp.zeros(jax.tree.leaves(z0)[0].shape[0], bool))


def advance(
    step: Step,
    z0: PyTree,
    tracking: Tracking,
    frame: PyTree,
    *,
    cold_step: Step | None = None,
    restart: Bool[Array, " B"] | None = None,
    exists: Bool[Array, " B"] | None = None,
    max_residual: float = float("inf"),
) -> tuple[Tracking, Tracked]:
    """Solves one frame of each video, for live use and for `rwr`.

    Args:
        step: solves a frame in a limited number of steps, starting at the previous frame's equilibrium.
        z0: first iterate of a video that has not started, leaves (B, ...).
        tracking: state from `begin` or from the previous call.
        frame: input of `step`, leaves (B, ...).
        cold_step: solves a frame from `z0`, with as many steps as a still takes; None takes `step`.
        restart: true where a video must not start from the previous frame: a scene cut, a lost face.
        exists: false where a video has no frame or its face is lost. The result is to be ignored, and the video
            restarts at the next frame.
        max_residual: largest residual, at this frame, of the previous frame's equilibrium. A video restarts above it,
            as at a scene cut.

    Returns:
        State for the next frame, and the result of this frame.
    """
    cold_step = step if cold_step is None else cold_step
    exists = jnp.ones_like(tracking.started) if exists is None else exists
    fresh = ~tracking.started if restart is None else ~tracking.started | restart
    warm = step(_select(fresh, z0, tracking.z), frame)
    # The negated comparison also restarts where the residual is NaN.
    fresh = (fresh | ~(warm[1] <= max_residual)) & exists
    # The cold solver runs only at frames where some video needs it.
    z, residual, output = lax.cond(fresh.any(), lambda: _select(fresh, cold_step(z0, frame), warm), lambda: warm)
    usable = jnp.isfinite(residual)
    return Tracking(_select(usable, z, z0), usable & exists), Tracked(output, residual, fresh)


def rwr(
    step: Step,
    z0: PyTree,
    frames: PyTree,
    *,
    exists: Bool[Array, "B T"] | None = None,
    tracking: Tracking | None = None,
    cold_step: Step | None = None,
    restart: Bool[Array, "B T"] | None = None,
    max_residual: float = float("inf"),
) -> tuple[Tracked, Tracking]:
    """Runs recurrence without recurrence on a batch of videos, in one `lax.scan` over their frames.

    Args:
        step: see `advance`, which also describes `z0`, `cold_step` and `max_residual`.
        frames: inputs of `step`, leaves (B, T, ...).
        exists: (B, T), false where there is no frame (after the end of a shorter video) or the face is lost. The
            result of such a frame is to be ignored, and the video restarts after it.
        tracking: state after the frames before these, for a video that is given in pieces; None starts the videos.
        restart: (B, T), true where a video must not start from the previous frame.

    Returns:
        Results with leaves (B, T, ...), and the state for the frame after the last one.
    """
    leaf = jax.tree.leaves(frames)[0]
    batch, time = leaf.shape[:2]
    restart = jnp.zeros((batch, time), bool) if restart is None else restart
    exists = jnp.ones((batch, time), bool) if exists is None else exists

    def scanned(tracking: Tracking, inputs):
        frame, restart, exists = inputs
        return advance(
            step,
            z0,
            tracking,
            frame,
            cold_step=cold_step,
            restart=restart,
            exists=exists,
            max_residual=max_residual,
        )

    tracking = begin(z0) if tracking is None else tracking
    in_time = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), (frames, restart, exists))
    tracking, tracked = lax.scan(scanned, tracking, in_time)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), tracked), tracking


def _select(condition: Bool[Array, " B"], yes: PyTree, no: PyTree) -> PyTree:
    """Selects `yes` or `no` for each sample; leaves (B, ...)."""

    def choose(a, b):
        return jnp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, yes, no)

"""Recurrence without recurrence (RwR): stable landmarks on video from a model that was trained on stills.

Micaelli et al., CVPR 2023, section 4. Of the fixed points of f(·, xₙ) a video wants the one nearest to the last frame's
(Eq. 6). Relaxed, that is the minimum of an energy (Eq. 8), which `minimize_energy` finds by L-BFGS. `rwr` gets the
same effect cheaply: the solver starts at the last frame's equilibrium and is stopped early, which acts as the prior of
Eq. (9b). Nothing here knows about heatmaps: z is any pytree with a leading batch axis.
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
    """What a video leaves behind for its next frame.

    Attributes:
        z: leaves (B, ...), equilibrium of the last frame.
        started: (B,) false before the first frame.
    """

    z: PyTree
    started: Bool[Array, " B"]


class Tracked(NamedTuple):
    """One frame, or with a time axis after B all frames of the videos.

    Attributes:
        output: of the step.
        residual: (B,) or (B, T), of what the solver started from: how little the last frame said of this one.
        restarted: (B,) or (B, T), true where the solver started from z⁰ and not from the last frame.
    """

    output: Any
    residual: Shaped[Array, "*BT"]
    restarted: Bool[Array, "*BT"]


def begin(z0: PyTree) -> Tracking:
    """Before the first frame; `z0` as for stills, leaves (B, ...)."""
    return Tracking(z0, jnp.zeros(jax.tree.leaves(z0)[0].shape[0], bool))


def track(
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
    """One frame of each video, for live use and inside `rwr`.

    Args:
        step: solves a frame within a hard limit of steps; it starts at the last frame's equilibrium.
        z0: where a video without a past starts, leaves (B, ...).
        tracking: from `begin` or the last call.
        frame: leaves (B, ...).
        cold_step: solves a frame from `z0`, with as many steps as a still takes; `step` where it is None.
        restart: true where the past is of no use: a scene cut, a lost face.
        exists: false where a video has no frame or its face is lost: it starts anew behind that, and the result is to
            be ignored.
        max_residual: of the last frame's equilibrium at this frame; above it, at a scene cut, a video restarts.

    Returns:
        The past of the next frame, and this frame's result.
    """
    cold_step = step if cold_step is None else cold_step
    exists = jnp.ones_like(tracking.started) if exists is None else exists
    fresh = ~tracking.started if restart is None else ~tracking.started | restart
    warm = step(_select(fresh, z0, tracking.z), frame)
    # A NaN is no equilibrium to start from either.
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
    """Recurrence without recurrence over a batch of videos: one `lax.scan` over their frames.

    Args:
        step: see `track`, as are `z0`, `cold_step` and `max_residual`.
        frames: leaves (B, T, ...).
        exists: (B, T), false where there is no frame: behind the end of a shorter video, or where the face is lost.
            A video starts anew behind such a frame, whose results are to be ignored.
        tracking: of the frames before these, so that a video can come in pieces.
        restart: (B, T).

    Returns:
        Results with leaves (B, T, ...), and the past of the frame after the last one.
    """
    leaf = jax.tree.leaves(frames)[0]
    batch, time = leaf.shape[:2]
    restart = jnp.zeros((batch, time), bool) if restart is None else restart
    exists = jnp.ones((batch, time), bool) if exists is None else exists

    def scanned(tracking: Tracking, inputs):
        frame, restart, exists = inputs
        return track(
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
    """Sample by sample, leaves (B, ...)."""

    def choose(a, b):
        return jnp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(choose, yes, no)

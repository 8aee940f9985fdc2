"""Optimisers from configs: schedule, clipping, weight decay, and moving average of the parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxlm.config import Optim, Optimizer
from jaxlm.systems import TrainState


def make_schedule(config: Optim, num_steps: int) -> optax.Schedule:
    """Learning-rate schedule: linear warm-up, then constant, cosine decay to zero, or drops at given steps.

    Args:
        config: `config.optim`: learning_rate, warmup_steps, schedule ("constant", "cosine" or "steps") and, for
            "steps", drop (factor) and drop_at (fractions of `num_steps`).
        num_steps: number of optimiser steps of the training.

    Raises:
        ValueError: if the schedule is unknown.
    """
    if config.schedule == "constant":
        after = optax.constant_schedule(config.learning_rate)
    elif config.schedule == "cosine":
        after = optax.cosine_decay_schedule(config.learning_rate, max(num_steps - config.warmup_steps, 1))
    elif config.schedule == "steps":
        at = {round(fraction * num_steps) - config.warmup_steps: config.drop for fraction in config.drop_at}
        after = optax.piecewise_constant_schedule(config.learning_rate, at)
    else:
        raise ValueError(f"optim.schedule {config.schedule!r} does not exist; choose constant, cosine or steps.")
    warmup = optax.linear_schedule(0.0, config.learning_rate, max(config.warmup_steps, 1))
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def make_optimizer(
    config: Optimizer, schedule: optax.Schedule, trainable: Callable[[Any], Any] | None = None
) -> optax.GradientTransformation:
    """Optimiser of `config.optim`: clipping by global norm, then adamw, sgd (Nesterov 0.9), momentum (0.9) or rmsprop.

    Weight decay excludes biases and the parameters of norms (vectors).

    Args:
        config: `config.optim`: name, weight_decay and clip_norm (no clipping if it is not positive).
        schedule: learning rate over steps.
        trainable: parameters -> tree of booleans of the same structure; parameters where it is false do not change. The
            structure of the optimiser's state does not depend on it.

    Raises:
        ValueError: if the optimiser is unknown.
    """

    def matrices(params):
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    if config.name == "adamw":
        step = optax.adamw(schedule, weight_decay=config.weight_decay, mask=matrices)
    elif config.name in ("sgd", "momentum", "rmsprop"):
        if config.name != "rmsprop":
            direction = optax.sgd(schedule, 0.9, nesterov=config.name == "sgd")
        else:
            # PyTorch's settings, which the papers trained with: a step does not depend on the scale of the loss.
            # Optax's defaults put ε inside the root, which shrinks the steps of gradients below 1e-4.
            direction = optax.rmsprop(schedule, decay=0.99, eps=1e-8, eps_in_sqrt=False)
        step = optax.chain(optax.add_decayed_weights(config.weight_decay, matrices), direction)
    else:
        raise ValueError(f"optim.name {config.name!r} does not exist; choose adamw, sgd, momentum or rmsprop.")
    if config.clip_norm > 0:
        step = optax.chain(optax.clip_by_global_norm(config.clip_norm), step)
    if trainable is not None:
        # Applied last: weight decay and old momentum would move frozen parameters, too.
        freeze = optax.masked(
            optax.set_to_zero(), lambda params: jax.tree.map(lambda leaf: not leaf, trainable(params))
        )
        step = optax.chain(step, freeze)
    return step


def apply_gradients(
    optimizer: optax.GradientTransformation, ema_decay: float, state: TrainState, gradient: Any, batch_stats: Any
) -> tuple[TrainState, jax.Array]:
    """Takes one optimiser step and updates the moving average.

    The decay of the average is warmed up: it is at most (1 + t)/(10 + t) at step t.

    Args:
        optimizer: from `make_optimizer`.
        ema_decay: final decay of the moving average.
        state: state before the step.
        gradient: gradient of the loss, a tree like `state.params`.
        batch_stats: running statistics after the step.

    Returns:
        The new state and the gradient's global norm () before clipping.
    """
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    count = step.astype(jnp.float32)
    decay = jnp.minimum(ema_decay, (1.0 + count) / (10.0 + count))
    live = {"params": params, "batch_stats": batch_stats}
    ema = jax.tree.map(lambda average, value: decay * average + (1.0 - decay) * value, state.ema, live)
    state = TrainState(step=step, params=params, ema=ema, batch_stats=batch_stats, opt_state=opt_state)
    return state, optax.global_norm(gradient)

"""Meta-joint optimisation, Algorithm 1 of Guo et al., ECCV 2020: several losses look ahead, the best one is followed.

A round is k + 1 batches. From the same parameters every branch takes k optimiser steps on the same k batches, each with
its own loss; then the branch with the lowest vertex error on the last batch becomes the start of all in the next round,
with its optimiser's state and running statistics.

The branches are kept stacked along a leading axis. A whole round is one jitted call, a scan over its batches, or every
batch is one, so that a large k does not need k batches in the device's memory. The numbers are the same.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array

from jaxlm.config import Config
from jaxlm.systems import TrainState

BRANCHES = ("vmap", "map", "devices")


def branch(state: TrainState, count: int) -> TrainState:
    """The state with `count` copies, stacked, of what training changes; the average stays single."""

    def stack(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], count, axis=0), tree)

    return state._replace(
        params=stack(state.params), batch_stats=stack(state.batch_stats), opt_state=stack(state.opt_state)
    )


class Steps(NamedTuple):
    """Train steps of a round; each is (state of `branch`, batch, rng) -> (state, logs).

    Attributes:
        advance: every branch takes one step.
        select: the best branch on this batch is followed. Its logs have "chosen", the branch's index, and "chosen_vdc",
            its vertex error; those of `advance` are NaN.
        round: both for k + 1 batches along a leading axis; logs are means over those that train.
    """

    advance: Callable[..., tuple[TrainState, dict[str, Array]]]
    select: Callable[..., tuple[TrainState, dict[str, Array]]]
    round: Callable[..., tuple[TrainState, dict[str, Array]]]


def make_steps(
    loss_of: Callable[..., tuple[Array, tuple[Any, dict[str, Array]]]],
    costs: Sequence[Any],
    optimizer: optax.GradientTransformation,
    prepare: Callable[[dict[str, Array], Array], dict[str, Array]],
    config: Config,
) -> Steps:
    """The steps of `config.meta`: {k, stream, branches}.

    Args:
        loss_of: (params, batch_stats, batch, rng, cost) -> loss (), (new batch_stats, {"vdc": vertex error, …}).
        costs: what tells the branches apart.
        optimizer: of every branch.
        prepare: (batch, rng) -> the batch that is trained on.
        config: of the experiment.

    Raises:
        ValueError: for a k or a way to run the branches that does not exist.
    """
    settings = config.meta
    if settings.k < 1 or settings.branches not in BRANCHES:
        raise ValueError(f"meta.k must be at least 1 and meta.branches one of {', '.join(BRANCHES)}.")
    differentiate = jax.value_and_grad(loss_of, has_aux=True)

    def cost_of(number: Array):
        return lambda *arguments: jax.lax.switch(number, list(costs), *arguments)

    def advance_one(number, params, batch_stats, opt_state, batch, rng):
        (loss, (batch_stats, logs)), gradient = differentiate(params, batch_stats, batch, rng, cost_of(number))
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        logs = {"loss": loss, "grad_norm": optax.global_norm(gradient), **logs}
        return (optax.apply_updates(params, updates), batch_stats, opt_state), logs

    def test_one(number, params, batch_stats, batch, rng):
        # Norms count this batch's own statistics: the running ones lag behind after a small k.
        loss, (_, logs) = loss_of(params, batch_stats, batch, rng, cost_of(number))
        return {"loss": loss, **logs}

    def all_branches(function, stacked, *shared):
        numbers = jnp.arange(len(costs))
        if settings.branches == "map":
            # As lax.map, but without a loop, in which XLA's CPU backend works on one core.
            _, results = jax.lax.scan(
                lambda _, one: (None, function(*one, *shared)), None, (numbers, *stacked), unroll=True
            )
            return results
        mapped = jax.vmap(function, in_axes=(0,) * (1 + len(stacked)) + (None,) * len(shared))
        if settings.branches == "devices":
            split, whole = PartitionSpec("branch"), PartitionSpec()
            mapped = jax.shard_map(
                mapped,
                mesh=branch_mesh(len(costs)),
                in_specs=(split,) * (1 + len(stacked)) + (whole,) * len(shared),
                out_specs=split,
                axis_names={"branch"},
                check_vma=False,
            )
        return mapped(numbers, *stacked, *shared)

    def advance(state: TrainState, batch, rng):
        stacked = (state.params, state.batch_stats, state.opt_state)
        (params, batch_stats, opt_state), logs = all_branches(advance_one, stacked, batch, rng)
        missing = {"chosen": jnp.nan, "chosen_vdc": jnp.nan}
        state = state._replace(params=params, batch_stats=batch_stats, opt_state=opt_state)
        of_each = {f"loss_{number}": loss for number, loss in enumerate(logs["loss"])}
        return state, {**jax.tree.map(_mean_of_finite, logs), **of_each, **missing}

    def select(state: TrainState, batch, rng):
        logs = all_branches(test_one, (state.params, state.batch_stats), batch, rng)
        errors = jnp.where(jnp.isfinite(logs["vdc"]), logs["vdc"], jnp.inf)
        best = jnp.argmin(errors)
        stacked = (state.params, state.batch_stats, state.opt_state)
        winner = jax.tree.map(lambda leaf: leaf[best], stacked)
        params, batch_stats, opt_state = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(costs), axis=0), winner)
        # As many steps of the average at once as the winner has taken.
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(config.optim.ema, (1.0 + count) / (10.0 + count)) ** settings.k
        live = {"params": winner[0], "batch_stats": winner[1]}
        ema = jax.tree.map(lambda average, value: decay * average + (1.0 - decay) * value, state.ema, live)
        state = state._replace(params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema)
        chosen = {"chosen": best.astype(jnp.float32), "chosen_vdc": errors[best]}
        return state, {**jax.tree.map(_mean_of_finite, logs), **chosen}

    def numbered(step):
        """With the batch's own randomness, whichever call it comes in."""

        def run(state: TrainState, batch: dict[str, Array], rng: Array | None = None):
            del rng
            key = jax.random.fold_in(jax.random.key(config.seed), state.step)
            state, logs = step(state, prepare(batch, jax.random.fold_in(key, 1)), key)
            return state._replace(step=state.step + 1), logs

        return run

    def whole_round(state: TrainState, batches: dict[str, Array], rng: Array):
        del rng
        first, last = (jax.tree.map(lambda leaf, part=part: leaf[part], batches) for part in (slice(-1), -1))
        state, logs = jax.lax.scan(numbered(advance), state, first)
        state, tested = numbered(select)(state, last)
        chosen = {key: tested[key] for key in ("chosen", "chosen_vdc")}
        return state, {**jax.tree.map(jnp.mean, logs), **chosen}

    return Steps(numbered(advance), numbered(select), whole_round)


@functools.cache
def branch_mesh(count: int) -> jax.sharding.Mesh:
    """All devices of this process along the axes "branch" and "data".

    Raises:
        ValueError: if they cannot be shared out, or there are other processes, which read other samples.
    """
    if jax.process_count() > 1 or jax.device_count() % count:
        raise ValueError(
            f"meta.branches = devices needs one process with a multiple of {count} devices; take vmap or map."
        )
    kinds = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((count, jax.device_count() // count), ("branch", "data"), axis_types=kinds)


def _mean_of_finite(values: Array) -> Array:
    """Over the branches: one that diverges will lose, and is no reason to stop; NaN if all do."""
    return jnp.nanmean(jnp.where(jnp.isfinite(values), values, jnp.nan))

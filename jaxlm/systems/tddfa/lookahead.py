"""Meta-joint optimisation, Algorithm 1 of Guo et al., ECCV 2020: trains one branch per loss and keeps the best one.

A round takes k + 1 batches. All branches start from the same parameters and take k optimiser steps on the same k
batches, each with its own loss. The branch with the lowest vertex error on the last batch is selected: all branches
start the next round with its parameters, optimiser state and running statistics.

The branches are stacked along a leading axis. Training takes one batch at a time (`advance`, `select`), so that a large
k does not need k batches in the device's memory. A whole round can be one jitted call, too (`round`), which scans over
its batches and gives the same numbers.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array

from jaxlm.systems import TrainState
from jaxlm.systems.tddfa.settings import Config

BRANCHES = ("vmap", "map", "devices")


def branch(state: TrainState, count: int) -> TrainState:
    """State with `count` stacked copies of params, batch_stats and opt_state; the moving average is not copied."""

    def stack(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], count, axis=0), tree)

    return state._replace(
        params=stack(state.params), batch_stats=stack(state.batch_stats), opt_state=stack(state.opt_state)
    )


class Steps(NamedTuple):
    """Training steps of a round, each a function (state of `branch`, batch, rng) -> (state, logs).

    Attributes:
        advance: takes one optimiser step in every branch.
        select: evaluates all branches on the batch and copies the best one to the others. Its logs have "chosen", the
            index of the best branch, and "chosen_vdc", its vertex error; both are NaN in the logs of `advance`.
        round: takes a whole round of k + 1 batches, stacked along a leading axis: `advance` on the first k, `select` on
            the last. Its logs are means over the first k batches, and "chosen" and "chosen_vdc" of the last.
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
    """Returns the training steps of `config.meta`: {k, branches}.

    Args:
        loss_of: (params, batch_stats, batch, rng, cost) -> loss (), (new batch_stats, {"vdc": vertex error, …}).
        costs: loss function of each branch, passed to `loss_of` as `cost`.
        optimizer: optimiser of every branch.
        prepare: (batch, rng) -> the batch to train on.
        config: config of the experiment.

    Raises:
        ValueError: if meta.k is less than 1 or meta.branches is unknown.
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
        # The norms use this batch's statistics: the running ones lag behind after a small k.
        loss, (_, logs) = loss_of(params, batch_stats, batch, rng, cost_of(number))
        return {"loss": loss, **logs}

    def all_branches(function, stacked, *shared):
        numbers = jnp.arange(len(costs))
        if settings.branches == "map":
            # Like lax.map, but unrolled: inside a loop XLA's CPU backend uses one core only.
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
        # One update of the moving average stands for the k steps that the selected branch has taken.
        count = state.step.astype(jnp.float32)
        decay = jnp.minimum(config.optim.ema, (1.0 + count) / (10.0 + count)) ** settings.k
        live = {"params": winner[0], "batch_stats": winner[1]}
        ema = jax.tree.map(lambda average, value: decay * average + (1.0 - decay) * value, state.ema, live)
        state = state._replace(params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema)
        chosen = {"chosen": best.astype(jnp.float32), "chosen_vdc": errors[best]}
        return state, {**jax.tree.map(_mean_of_finite, logs), **chosen}

    def numbered(step):
        """Derives the step's randomness from the step number, so that both ways to run a round agree."""

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
    """Mesh of all devices of this process, with the axes "branch" (`count` long) and "data".

    Raises:
        ValueError: if the number of devices is not a multiple of `count`, or there are other processes, which read
            other samples.
    """
    if jax.process_count() > 1 or jax.device_count() % count:
        raise ValueError(
            f"meta.branches = devices needs one process with a multiple of {count} devices; set it to vmap or map."
        )
    kinds = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((count, jax.device_count() // count), ("branch", "data"), axis_types=kinds)


def _mean_of_finite(values: Array) -> Array:
    """Mean of the finite values over the branches; NaN if no value is finite.

    A branch that diverges is not selected, so it must not stop the training.
    """
    return jnp.nanmean(jnp.where(jnp.isfinite(values), values, jnp.nan))

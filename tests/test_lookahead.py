import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from jaxlm.systems import initial_state
from jaxlm.systems.tddfa import lookahead

COSTS = (lambda error: jnp.square(error), lambda error: 0.01 * jnp.abs(error))


def make_config(k=3, branches="vmap"):
    return ConfigDict(dict(seed=0, meta=dict(k=k, branches=branches), optim=dict(ema=0.5), train=dict(num_steps=8)))


def loss_of(params, batch_stats, batch, rng, cost):
    """A line through points; the running statistic counts the steps."""
    del rng
    error = params["slope"] * batch["x"] + params["offset"] - batch["y"]
    stats = {"count": batch_stats["count"] + 1}
    return cost(error).mean(), (stats, {"nme": jnp.zeros(()), "vdc": jnp.square(error).mean()})


OPTIMIZER = optax.adam(0.1)


def start():
    variables = {"params": {"slope": jnp.zeros(()), "offset": jnp.ones(())}, "batch_stats": {"count": jnp.zeros(())}}
    return lookahead.branch(initial_state(variables, OPTIMIZER), 2)


def batches(count, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 16))
    return {"x": jnp.asarray(x, jnp.float32), "y": jnp.asarray(2 * x + 1, jnp.float32)}


def steps_of(config, costs=COSTS):
    return lookahead.make_steps(loss_of, costs, OPTIMIZER, lambda batch, rng: batch, config)


def run(config, data, costs=COSTS):
    steps, state, logs = steps_of(config, costs), start(), []
    select, advance = jax.jit(steps.select), jax.jit(steps.advance)
    for number in range(len(data["x"])):
        batch = jax.tree.map(lambda leaf, number=number: leaf[number], data)
        last = number % (config.meta.k + 1) == config.meta.k
        state, log = (select if last else advance)(state, batch, jax.random.key(0))
        logs.append(log)
    return state, logs


def by_hand(data, k):
    """Algorithm 1 with loops and one pair of (parameters, optimiser state) after the other."""
    params = {"slope": jnp.zeros(()), "offset": jnp.ones(())}
    opt_state, chosen = OPTIMIZER.init(params), []
    for first in range(0, len(data["x"]), k + 1):
        ends = []
        for cost in COSTS:
            branch, state = params, opt_state
            for number in range(first, first + k):
                batch = jax.tree.map(lambda leaf, number=number: leaf[number], data)
                gradient = jax.grad(lambda p, b=batch, c=cost: loss_of(p, {"count": 0.0}, b, None, c)[0])(branch)
                update, state = OPTIMIZER.update(gradient, state, branch)
                branch = optax.apply_updates(branch, update)
            test = jax.tree.map(lambda leaf, number=first + k: leaf[number], data)
            ends.append((float(loss_of(branch, {"count": 0.0}, test, None, COSTS[0])[1][1]["vdc"]), branch, state))
        best = int(np.argmin([end[0] for end in ends]))
        chosen.append(best)
        _, params, opt_state = ends[best]
    return params, opt_state, chosen


def test_algorithm_1_by_hand():
    data = batches(8)
    params, opt_state, chosen = by_hand(data, k=3)
    state, logs = run(make_config(k=3), data)
    for branch in range(2):  # both go on from the winner
        picked = jax.tree.map(lambda leaf, branch=branch: leaf[branch], (state.params, state.opt_state))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), picked, (params, opt_state))
    assert [int(log["chosen"]) for log in logs[3::4]] == chosen
    assert all(np.isnan(log["chosen"]) for number, log in enumerate(logs) if number % 4 != 3)
    assert int(state.step) == 8 and state.batch_stats["count"].tolist() == [6.0, 6.0]  # tests count nothing


@pytest.mark.parametrize("branches", ["vmap", "map"])
def test_a_round_in_one_call_is_the_same(branches):
    data = batches(8)
    streamed, logs = run(make_config(branches="vmap"), data)
    steps, state = steps_of(make_config(branches=branches)), start()
    for first in (0, 4):
        several = jax.tree.map(lambda leaf, first=first: leaf[first : first + 4], data)
        state, log = steps.round(state, several, jax.random.key(0))
        assert float(log["chosen"]) == float(logs[first + 3]["chosen"])
        mean = np.mean([float(one["loss"]) for one in logs[first : first + 3]])
        assert float(log["loss"]) == pytest.approx(mean, rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state, streamed)


def test_the_average_follows_the_winner():
    state, _ = run(make_config(k=3), batches(4))
    decay = np.minimum(0.5, (1 + 3) / (10 + 3)) ** 3
    winner = state.params["slope"][0]
    assert float(state.ema["params"]["slope"]) == pytest.approx(float((1 - decay) * winner), rel=1e-5)


def test_a_branch_that_diverges_loses_and_does_not_stop_the_training():
    costs = (lambda error: jnp.full_like(error, jnp.nan) * error, lambda error: jnp.square(error))
    state, logs = run(make_config(k=3), batches(4), costs)
    assert float(logs[-1]["chosen"]) == 1.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert all(np.isfinite(float(log["loss"])) and np.isfinite(float(log.get("grad_norm", 0))) for log in logs)


def test_settings_that_do_not_exist():
    with pytest.raises(ValueError, match=r"meta\.k must be at least 1"):
        steps_of(make_config(k=0))
    with pytest.raises(ValueError, match="one of vmap, map, devices"):
        steps_of(make_config(branches="threads"))
    with pytest.raises(ValueError, match="needs one process with a multiple of 2 devices"):
        lookahead.branch_mesh(2)


def test_branches_on_devices_of_their_own():
    """Four devices, two for each branch: the numbers of vmap."""
    code = """
import jax, numpy as np, test_lookahead as t
data = t.batches(8)
(expected, logs), (found, others) = (t.run(t.make_config(branches=kind), data) for kind in ("vmap", "devices"))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), expected, found)
assert [float(log["chosen"]) for log in logs[3::4]] == [float(log["chosen"]) for log in others[3::4]]
"""
    flags = os.environ["XLA_FLAGS"].replace("count=1", "count=4")
    environment = {**os.environ, "XLA_FLAGS": flags}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxlm import systems
from jaxlm.solvers import fixed_point_iteration
from jaxlm.systems.ldeq import system as ldeq_system
from jaxlm.video import energy, recurrence

sys.path.insert(0, str(Path(__file__).parent.parent / "configs"))


def orthogonal(rng, size: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def linear_map(spectrum: np.ndarray, rng):
    """f(z) = z − M (z − c), M symmetric with this spectrum: a direction of eigenvalue 0 is free."""
    basis = orthogonal(rng, len(spectrum))
    matrix, center = basis * spectrum @ basis.T, rng.normal(size=(1, len(spectrum)))
    return (lambda z: z - (z - center) @ matrix), basis, matrix, center


def steps_of(fun, z, steps: int):
    return fixed_point_iteration(fun, z, tol=0.0, max_steps=steps, image=True)[0]


def test_rwr_and_the_energy_choose_the_nearest_fixed_point(float64):
    rng = np.random.default_rng(0)
    fun, basis, _, center = linear_map(np.array([1.0, 1, 1, 0, 0, 0]), rng)
    z_prev = jnp.asarray(rng.normal(size=(3, 6)))
    # Eq. (6): the projection of the last equilibrium on the set of fixed points.
    bound = basis[:, :3] @ basis[:, :3].T
    nearest = z_prev - (z_prev - center) @ bound
    np.testing.assert_allclose(steps_of(fun, z_prev, 2), nearest, atol=1e-12)
    z, stats = energy.minimize_energy(lambda z, _: fun(z), z_prev, jnp.zeros(3), alpha=1e-6, max_steps=50, tol=1e-12)
    np.testing.assert_allclose(z, nearest, atol=1e-5)
    assert (np.asarray(stats.energy) < 1e-5).all()


def test_the_energy_s_minimum_is_the_closed_form(float64):
    rng = np.random.default_rng(1)
    fun, _, matrix, center = linear_map(np.linspace(0.05, 0.95, 6), rng)
    z_prev = jnp.asarray(rng.normal(size=(4, 6)))
    for alpha in (0.01, 0.3):
        hold = alpha / 2 * np.linalg.inv(matrix @ matrix + alpha / 2 * np.eye(6))
        expected = center + (z_prev - center) @ hold
        z, stats = energy.minimize_energy(
            lambda z, _: fun(z), z_prev, jnp.zeros(4), alpha=alpha, max_steps=100, tol=1e-12
        )
        np.testing.assert_allclose(z, expected, atol=1e-8)
        np.testing.assert_allclose(stats.energy, energy.energy(fun, expected, z_prev, alpha), rtol=1e-8)


def test_the_energy_of_a_map_far_from_normal(float64):
    """The spectral radius says little about σ_max(J) there: 0.8 and above 4. SciPy's L-BFGS, run long, is the truth."""
    rng = np.random.default_rng(4)
    matrix = np.diag(np.linspace(-0.8, 0.8, 12)) + np.triu(rng.normal(size=(12, 12)), 1)
    assert np.linalg.norm(matrix, 2) > 4
    b = jnp.asarray(rng.normal(size=(6, 12)))
    fun = lambda z, b: jnp.tanh(z @ matrix.T + b)  # noqa: E731
    z_prev = fixed_point_iteration(lambda z: fun(z, b + 0.5), jnp.zeros((6, 12)), tol=1e-9, max_steps=300)[0]
    z, stats = energy.minimize_energy(fun, z_prev, b, alpha=0.1, max_steps=60, tol=1e-9)
    few, _ = energy.minimize_energy(fun, z_prev, b, alpha=0.1, max_steps=2)
    one, two = steps_of(lambda z: fun(z, b), z_prev, 1), steps_of(lambda z: fun(z, b), z_prev, 2)
    for other in (z_prev, one, two):
        bound = energy.energy(lambda z: fun(z, b), other, z_prev, 0.1) + 1e-12
        assert (stats.energy <= bound).all() and (energy.energy(lambda z: fun(z, b), few, z_prev, 0.1) <= bound).all()
    for i in range(6):
        value = jax.jit(
            jax.value_and_grad(
                lambda z: energy.energy(lambda z: fun(z, b[i : i + 1]), z[None], z_prev[i : i + 1], 0.1)[0]  # noqa: B023
            )
        )
        found = optimize.minimize(lambda z: tuple(map(np.asarray, value(z))), z[i], jac=True, method="L-BFGS-B")  # noqa: B023
        assert stats.energy[i] < 1.01 * found.fun


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_stopping_early_is_the_energy_s_prior(float64, steps):
    """Early stopping holds what the image says little about, as Eq. (8) does with an α that falls with the steps."""
    rng = np.random.default_rng(2)
    spectrum = np.array([0.02, 0.1, 0.3, 0.6, 0.9])
    fun, basis, _matrix, center = linear_map(spectrum, rng)
    z_prev = jnp.asarray(center + np.ones((1, 5)) @ basis.T)
    held = (np.asarray(steps_of(fun, z_prev, steps)) - center) @ basis
    np.testing.assert_allclose(held, (1 - spectrum[None]) ** steps, atol=1e-12)
    # The energy's minimum in closed form, which a test above holds against L-BFGS.
    alphas = np.geomspace(1e-3, 10, 200)
    minima = alphas[:, None] / 2 / (spectrum**2 + alphas[:, None] / 2)
    distances = np.linalg.norm(minima - held, axis=1) / np.linalg.norm(held)
    assert distances.min() < 0.25
    # The more steps, the weaker the prior.
    assert np.isclose(alphas[np.argmin(distances)], {1: 0.53, 2: 0.2, 4: 0.06}[steps], rtol=0.5)


def toy(max_steps: int = 2):
    """A step on frames (B, 4) by z ← z − 0.3 (z − frame); the output is the equilibrium."""

    def step(z, frame):
        solver = functools.partial(
            fixed_point_iteration, tol=1e-6, max_steps=max_steps, relative=False, trace=True, image=True
        )
        equilibrium, stats = solver(lambda z: z - 0.3 * (z - frame), z)
        return equilibrium, stats.trace[0], equilibrium

    return step


FRAMES = jnp.asarray(np.random.default_rng(4).normal(size=(3, 7, 4)), jnp.float32)
Z0 = jnp.zeros((3, 4))


def test_scan_is_frame_after_frame_and_piece_after_piece():
    tracked, past = recurrence.rwr(toy(), Z0, FRAMES, cold_step=toy(30))
    z = np.asarray(FRAMES[:, 0])  # the first frame is solved to the end
    np.testing.assert_allclose(tracked.output[:, 0], z, atol=1e-4)
    for time in range(1, 7):
        z = FRAMES[:, time] + 0.7**2 * (z - FRAMES[:, time])
        np.testing.assert_allclose(tracked.output[:, time], z, atol=1e-4)
    first, middle = recurrence.rwr(toy(), Z0, FRAMES[:, :3], cold_step=toy(30))
    second, end = recurrence.rwr(toy(), Z0, FRAMES[:, 3:], cold_step=toy(30), tracking=middle)
    pieces = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), first, second)
    for whole, part in zip(jax.tree.leaves((tracked, past)), jax.tree.leaves((pieces, end)), strict=True):
        np.testing.assert_array_equal(whole, part)
    live = recurrence.begin(Z0)
    for time in range(7):
        live, result = recurrence.advance(toy(), Z0, live, FRAMES[:, time], cold_step=toy(30))
        np.testing.assert_array_equal(result.output, tracked.output[:, time])


def test_videos_of_different_lengths_do_not_disturb_each_other():
    lengths = jnp.array([7, 3, 0])
    exists = jnp.arange(7)[None] < lengths[:, None]
    frames = jnp.where(exists[..., None], FRAMES, jnp.nan)
    tracked, past = recurrence.rwr(toy(), Z0, frames, cold_step=toy(30), exists=exists)
    alone, _ = recurrence.rwr(toy(), Z0[:1], FRAMES[:1], cold_step=toy(30))
    np.testing.assert_array_equal(tracked.output[0], alone.output[0])
    short, _ = recurrence.rwr(toy(), Z0[1:2], FRAMES[1:2, :3], cold_step=toy(30))
    np.testing.assert_array_equal(tracked.output[1, :3], short.output[0])
    np.testing.assert_array_equal(past.started, [True, False, False])
    lost = exists.at[0, 3].set(False)
    found, _ = recurrence.rwr(toy(), Z0, FRAMES, cold_step=toy(30), exists=lost)
    np.testing.assert_array_equal(np.flatnonzero(found.restarted[0]), [0, 4])
    assert not np.asarray(tracked.restarted)[~np.asarray(exists)].any()


def test_restarts_where_told_at_a_cut_and_behind_a_nan():
    restart = jnp.zeros((3, 7), bool).at[0, 4].set(True)
    cut = FRAMES.at[1, 5:].add(1000.0)
    cut = cut.at[2, 2].set(jnp.nan)
    tracked, _ = recurrence.rwr(toy(), Z0, cut, cold_step=toy(60), restart=restart, max_residual=50.0)
    expected = np.zeros((3, 7), bool)
    expected[:, 0] = expected[0, 4] = expected[1, 5] = expected[2, 2] = expected[2, 3] = True
    np.testing.assert_array_equal(tracked.restarted, expected)
    np.testing.assert_allclose(tracked.output[0, 4], cut[0, 4], atol=1e-3)
    assert np.isfinite(tracked.output[2, 3:]).all()
    again, _ = recurrence.rwr(toy(), Z0, FRAMES, cold_step=toy(60), max_residual=0.0)
    assert np.asarray(again.restarted).all()


def test_a_video_without_a_frame():
    tracked, past = recurrence.rwr(toy(), Z0, FRAMES[:, :0])
    assert tracked.output.shape == (3, 0, 4) and not past.started.any()


def test_negative_alpha_is_refused():
    with pytest.raises(ValueError, match="alpha"):
        energy.minimize_energy(lambda z, _: z, Z0, Z0, alpha=-1.0)


@pytest.fixture(scope="module")
def ldeq():
    import quickstart

    config = quickstart.get_config("smoke")
    config.eval.flip_average = False
    config.model.temperature = 40.0  # flat heatmaps: an untrained cell that contracts
    config.solver.tol, config.video.still_steps, config.video.solver.max_steps = 1e-6, 6, 2
    system = systems.build(config)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3)), jnp.uint8)
    return config, system, jax.jit(system.init)(jax.random.key(0)).variables, images


def track(ldeq, method, images, **options):
    _, system, variables, _ = ldeq
    always = jnp.ones(images.shape[:2], bool)
    options = dict(restart=~always, exists=always, past=None) | options
    return jax.jit(functools.partial(system.track, method))(variables, image=images, **options)


def test_frame_wise_tracking_is_the_prediction_of_stills(ldeq):
    *_, variables, images = ldeq
    prediction, _ = track(ldeq, "frame", images)
    config = ldeq[0].copy_and_resolve_references()
    config.solver.max_steps = config.video.still_steps
    for time in range(3):
        still = systems.build(config).predict(variables, images[:, time])
        np.testing.assert_allclose(prediction.landmarks[:, time], still.landmarks, atol=1e-3)
        np.testing.assert_allclose(prediction.score[:, time], still.score, atol=1e-4)


def test_rwr_starts_at_the_last_equilibrium(ldeq):
    *_, variables, images = ldeq
    first, past = track(ldeq, "rwr", images[:, :1])
    still, _ = track(ldeq, "frame", images[:, :1])
    np.testing.assert_allclose(first.landmarks, still.landmarks, atol=1e-3)
    # The same picture again and again: RwR goes on towards the fixed point that more steps find.
    again = jnp.repeat(images[:, :1], 12, axis=1)
    prediction, _ = track(ldeq, "rwr", again)
    config = ldeq[0].copy_and_resolve_references()
    config.video.still_steps = 60
    exact = systems.build(config).track("frame", variables, again[:, :1], None, None)[0]
    errors = np.abs(prediction.landmarks - exact.landmarks).max(axis=(0, 2, 3))
    assert errors[-1] < 0.3 * errors[0]
    assert np.asarray(past.started).all()


def test_the_settings_in_a_method_s_name(ldeq):
    """`rwr:1` is one plain step; the average of the heatmaps is the recursion of section 6.2."""
    _, system, variables, images = ldeq
    model, config = system.track.__self__.model, ldeq[0]
    still = functools.partial(system.track.__self__.solver, max_steps=config.video.still_steps)
    own = [model.predict(variables, images[:, n].astype(jnp.float32), solver=still).heatmaps for n in range(3)]
    injection, _ = model.inject(variables, images[:, 1].astype(jnp.float32))
    step = model.cell(own[0], (variables["params"]["cell"], injection))
    prediction, past = track(ldeq, "rwr:1", images[:, :2])
    np.testing.assert_allclose(past.z, step, atol=1e-4)
    np.testing.assert_allclose(prediction.landmarks[:, 1], model.to_landmarks(step), atol=1e-3)
    mean, past = track(ldeq, "heatmap_ema:0.3", images)
    np.testing.assert_allclose(past.z, 0.3 * own[2] + 0.7 * (0.3 * own[1] + 0.7 * own[0]), atol=1e-4)
    np.testing.assert_allclose(mean.landmarks[:, 2], model.to_landmarks(past.z), atol=1e-3)
    cut, _ = track(ldeq, "heatmap_ema:0.3", images, restart=jnp.array([[False, False, True]] * 2))
    np.testing.assert_allclose(cut.landmarks[:, 2], model.to_landmarks(own[2]), atol=1e-3)


@pytest.mark.slow
def test_the_energy_s_landmarks_move_towards_the_frame_s_own(ldeq):
    *_, images = ldeq
    prediction, _ = track(ldeq, "energy", images[:, :2])
    frame = np.asarray(track(ldeq, "frame", images[:, :2])[0].landmarks)
    np.testing.assert_allclose(prediction.landmarks[:, 0], frame[:, 0], atol=1e-3)
    start, end = (np.linalg.norm(points - frame[:, 1]) for points in (frame[:, 0], prediction.landmarks[:, 1]))
    assert end < 0.99 * start


def test_each_method_applies_the_cell_as_often_as_it_says(ldeq, monkeypatch):
    """Frame-wise once a step of a still, early and RwR once a step of their own, and RwR cold at the first frame."""
    from jaxlm.systems.ldeq.network import LDEQ

    config = ldeq[0].copy_and_resolve_references()
    config.solver.tol = config.video.solver.tol = 0.0
    config.video.max_residual = 1e9
    *_, variables, images = ldeq
    calls, cell = [], LDEQ.cell

    def counted(self, z, args):
        jax.debug.callback(lambda: calls.append(1))
        return cell(self, z, args)

    monkeypatch.setattr(LDEQ, "cell", counted)
    counts = {}
    for method in ("frame", "early", "rwr", "rwr:3", "heatmap_ema:0.5"):
        calls.clear()
        jax.block_until_ready(systems.build(config).track(method, variables, images, None, None))
        jax.effects_barrier()
        counts[method] = len(calls)
    rwr = {"rwr": 3 * 2 + 6, "rwr:3": 3 * 3 + 6}
    assert counts == {"frame": 3 * 6, "early": 3 * 2, **rwr, "heatmap_ema:0.5": 3 * 6 + 6}


def test_a_prediction_is_the_forward_pass_of_training(ldeq):
    config, *_, variables, images = ldeq
    model = ldeq_system.make_model(config)
    for name in ("fixed_point_iteration", "anderson", "broyden"):
        settings = config.solver.copy_and_resolve_references()
        settings.update(dict(name=name, max_steps=3, tol=0.0))
        solver = ldeq_system.make_solver(settings)
        frame = images[:, 0].astype(jnp.float32)
        trained = model(variables, frame, solver=solver, gradient="jacobian_free")
        predicted = model.predict(variables, frame, solver=solver)
        np.testing.assert_allclose(predicted.heatmaps, trained.heatmaps, atol=1e-5)

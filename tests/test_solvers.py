import functools

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import pytest

from jaxlm.solvers import FEW_STEPS, anderson, broyden, fixed_point_iteration, gmres

SOLVERS = {"fixed_point_iteration": fixed_point_iteration, "anderson": anderson, "broyden": broyden}
pytestmark = pytest.mark.usefixtures("float64")


def linear_problem(batch=3, size=8, radius=0.9, seed=0):
    """z = A z + b with spectral radius `radius`, and its dense solution."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(batch, size, size))
    a *= radius / np.abs(np.linalg.eigvals(a)).max(axis=1)[:, None, None]
    b = rng.normal(size=(batch, size))
    solution = np.linalg.solve(np.eye(size) - a, b[..., None])[..., 0]
    return lambda z: jnp.einsum("bij,bj->bi", a, z) + b, jnp.zeros((batch, size)), solution


def tanh_problem(batch=4, size=10, seed=1):
    rng = np.random.default_rng(seed)
    w = jnp.asarray(rng.normal(size=(size, size)) * 0.8 / np.sqrt(size))
    x = jnp.asarray(rng.normal(size=(batch, size)))
    return lambda z: jnp.tanh(z @ w + x), jnp.zeros((batch, size))


@pytest.mark.parametrize("name", SOLVERS)
def test_solves_a_linear_problem(name):
    fun, z0, solution = linear_problem()
    z, stats = SOLVERS[name](fun, z0, tol=1e-11, max_steps=1000)
    np.testing.assert_allclose(z, solution, rtol=1e-8, atol=1e-8)
    assert stats.converged.all()
    assert stats.num_steps < 1000


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("name", SOLVERS)
def test_residual_is_that_of_the_returned_iterate(name, relative):
    fun, z0 = tanh_problem()
    z, stats = SOLVERS[name](fun, z0, tol=1e-3, max_steps=30, relative=relative)
    expected = np.linalg.norm(fun(z) - z, axis=1)
    if relative:
        expected /= np.linalg.norm(fun(z), axis=1)
    np.testing.assert_allclose(stats.residual, expected, rtol=1e-10)
    assert (expected <= 1e-3).all()
    assert stats.num_steps == stats.best_step.max() + 1


def test_anderson_takes_fewer_steps_than_plain_iteration():
    fun, z0, _ = linear_problem(radius=0.95)
    steps = {n: s(fun, z0, tol=1e-8, max_steps=2000)[1].num_steps for n, s in SOLVERS.items()}
    assert steps["anderson"] < steps["fixed_point_iteration"] / 4
    assert steps["broyden"] < steps["fixed_point_iteration"] / 4


def test_agrees_with_jaxopt():
    fun, z0 = tanh_problem()
    for ours, theirs in [
        (anderson, jaxopt.AndersonAcceleration(lambda z: fun(z), tol=1e-12, maxiter=200)),
        (fixed_point_iteration, jaxopt.FixedPointIteration(lambda z: fun(z), tol=1e-12, maxiter=500)),
        (broyden, jaxopt.Broyden(lambda z: fun(z) - z, tol=1e-11, maxiter=200)),
    ]:
        z, _ = ours(fun, z0, tol=1e-13, max_steps=500)
        np.testing.assert_allclose(z, theirs.run(z0).params, atol=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_pytree_is_its_concatenation(name):
    fun, z0, solution = linear_problem(size=8)
    del solution

    def tree_fun(tree):
        z = fun(jnp.concatenate([tree["a"].reshape(3, 6), tree["b"][0]], axis=1))
        return {"a": z[:, :6].reshape(3, 2, 3), "b": (z[:, 6:],)}

    tree0 = {"a": jnp.zeros((3, 2, 3)), "b": (jnp.zeros((3, 2)),)}
    z, stats = SOLVERS[name](fun, z0, tol=1e-9, max_steps=300)
    tree, tree_stats = SOLVERS[name](tree_fun, tree0, tol=1e-9, max_steps=300)
    np.testing.assert_allclose(tree["a"].reshape(3, 6), z[:, :6], rtol=1e-12)
    np.testing.assert_allclose(tree["b"][0], z[:, 6:], rtol=1e-12)
    assert stats.num_steps == tree_stats.num_steps


@pytest.mark.parametrize("name", SOLVERS)
def test_a_nan_leaves_the_neighbours_bit_identical(name):
    fun, z0 = tanh_problem()
    poisoned = z0.at[1].set(jnp.nan)
    solve = jax.jit(functools.partial(SOLVERS[name], fun, tol=1e-9, max_steps=60))
    z, stats = solve(z0)
    z_bad, bad = solve(poisoned)
    others = np.array([0, 2, 3])
    np.testing.assert_array_equal(z_bad[others], z[others])
    np.testing.assert_array_equal(bad.residual[others], stats.residual[others])
    assert not bad.converged[1] and np.isinf(bad.residual[1])
    assert bad.converged[others].all()


@pytest.mark.parametrize("name", SOLVERS)
def test_a_converged_sample_is_frozen(name):
    fun, _, solution = linear_problem(batch=2)
    z0 = jnp.stack([solution[0], jnp.zeros(8)])
    z, stats = SOLVERS[name](fun, z0, tol=1e-10, max_steps=500)
    assert stats.best_step[0] == 0 and stats.best_step[1] > 3
    np.testing.assert_array_equal(z[0], z0[0])


def test_divergence_returns_the_best_iterate():
    z0 = jnp.array([[1.0], [0.1]])
    z, stats = fixed_point_iteration(lambda z: 3 * z**2, z0, tol=1e-12, max_steps=20, relative=False)
    assert not stats.converged[0] and stats.converged[1]
    np.testing.assert_array_equal(z[0], z0[0])  # its residuals only grow


def test_trace_and_taps():
    fun, z0 = tanh_problem()
    z, stats = anderson(fun, z0, tol=1e-6, max_steps=40, trace=True, taps=(0, 1, 39))
    steps = int(stats.num_steps)
    assert stats.trace.shape == (40, 4) and np.isnan(stats.trace[steps:]).all()
    np.testing.assert_array_equal(np.nanmin(stats.trace, axis=0), stats.residual)
    np.testing.assert_array_equal(stats.taps[0], z0)
    np.testing.assert_allclose(stats.taps[1], fun(z0), rtol=1e-12)
    np.testing.assert_array_equal(stats.taps[2], jnp.zeros_like(z))  # never reached


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(("max_steps", "tol"), [(FEW_STEPS, 1e-2), (FEW_STEPS, 1e-9), (50, 1e-7)])
def test_scan_and_while_loop_agree(name, max_steps, tol):
    """Unrolled or not, and if the last sample stops before the last step, too."""
    fun, z0 = tanh_problem()
    solve = functools.partial(SOLVERS[name], tol=tol, max_steps=max_steps, trace=True, taps=(1, max_steps - 1))
    found, expected = solve(fun, z0, differentiable=True), solve(fun, z0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13), found, expected)
    assert (expected[1].num_steps < max_steps) == (tol > 1e-8)


@pytest.mark.parametrize("name", SOLVERS)
def test_under_vmap_and_inside_another_gradient(name):
    fun, z0, solution = linear_problem()
    solve = functools.partial(SOLVERS[name], tol=1e-10, max_steps=500)
    starts = jnp.stack([z0, z0 + 1.0])
    z, _ = jax.jit(jax.vmap(lambda start: solve(fun, start)))(starts)
    np.testing.assert_allclose(z, jnp.stack([solution, solution]), atol=1e-7)

    def loss(scale):
        z, _ = solve(fun, z0)
        return scale * jnp.sum(jax.lax.stop_gradient(z))

    np.testing.assert_allclose(jax.grad(loss)(2.0), solution.sum(), atol=1e-6)


@pytest.mark.parametrize("name", ["anderson", "broyden"])
def test_bfloat16_state_reaches_bfloat16_accuracy(name):
    fun, z0, solution = linear_problem(radius=0.7)
    low = lambda z: fun(z.astype(jnp.float64)).astype(jnp.bfloat16)  # noqa: E731
    z, stats = SOLVERS[name](low, z0.astype(jnp.bfloat16), tol=4e-3, max_steps=60)
    assert z.dtype == jnp.bfloat16 and stats.residual.dtype == jnp.float32
    error = np.linalg.norm(z.astype(jnp.float64) - solution, axis=1) / np.linalg.norm(solution, axis=1)
    assert (error < 0.03).all()


def test_anderson_survives_a_singular_history():
    """A constant map repeats its residual exactly: the Gram matrix has rank one."""
    z, stats = anderson(lambda z: z + 1.0, jnp.zeros((2, 5)), tol=1e-8, max_steps=30, relative=False)
    assert np.isfinite(z).all() and not stats.converged.any()
    z, stats = anderson(lambda z: jnp.ones_like(z), jnp.zeros((2, 5)), tol=0.0, max_steps=30)
    np.testing.assert_array_equal(z, 1.0)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_anderson_does_not_depend_on_the_scale_of_z(scale):
    fun, z0, solution = linear_problem(radius=0.9)
    single = lambda z: (scale * fun(z.astype(jnp.float64) / scale)).astype(jnp.float32)  # noqa: E731
    z, stats = anderson(single, z0.astype(jnp.float32), tol=1e-4, max_steps=40)
    assert stats.converged.all() and stats.num_steps < 32
    np.testing.assert_allclose(z / scale, solution, rtol=2e-2, atol=2e-2)


def test_damping_converges_where_the_plain_iteration_oscillates():
    fun, z0 = lambda z: -1.5 * z + 1.0, jnp.zeros((2, 3))
    assert not fixed_point_iteration(fun, z0, tol=1e-6, max_steps=100)[1].converged.any()
    z, stats = fixed_point_iteration(fun, z0, tol=1e-6, max_steps=100, beta=0.4)
    assert stats.converged.all()
    np.testing.assert_allclose(z, 0.4, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_step": 3}, TypeError),
        ({"max_steps": 0}, ValueError),
        ({"tol": -1.0}, ValueError),
        ({"beta": 0.0}, ValueError),
        ({"memory": 0}, ValueError),
        ({"ridge": 0.0}, ValueError),
        ({"taps": (50,), "max_steps": 50}, ValueError),
    ],
)
def test_bad_options_are_errors(options, error):
    with pytest.raises(error):
        anderson(lambda z: z, jnp.zeros((1, 2)), **options)


def test_a_map_that_changes_shape_is_an_error():
    with pytest.raises(ValueError, match="must return what it is given"):
        anderson(lambda z: z[:, :1], jnp.zeros((1, 2)))
    with pytest.raises(ValueError, match="leading batch axis"):
        anderson(lambda z: z, {"a": jnp.zeros((1, 2)), "b": jnp.zeros((3, 2))})


def test_a_start_of_numpy():
    z, stats = anderson(lambda z: 0.5 * z + 1, np.zeros((2, 3)), tol=1e-5, max_steps=20)
    np.testing.assert_allclose(z, 2.0, atol=1e-3)
    assert bool(stats.converged.all())


def hard_problem(radius, shear, batch=64, size=30, seed=0):
    """z = tanh(1.5 A z + b) with far from normal matrices A of a given spectral radius."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(batch, size, size)) + shear * np.triu(rng.normal(size=(batch, size, size)), 1)
    a *= radius / np.abs(np.linalg.eigvals(a)).max(axis=1)[:, None, None]
    b = rng.normal(size=(batch, size))
    return lambda z: jnp.tanh(1.5 * jnp.einsum("bij,bj->bi", a, z) + b), jnp.zeros((batch, size))


@pytest.mark.parametrize(("radius", "shear"), [(0.9, 0.0), (0.9, 10.0), (0.98, 3.0), (1.2, 3.0)])
def test_anderson_converges_on_no_fewer_samples_than_plain_iteration(radius, shear):
    fun, z0 = hard_problem(radius, shear)
    for steps in (8, 16, 32, 64, 128):
        plain, ours = (s(fun, z0, tol=1e-4, max_steps=steps)[1].converged for s in (fixed_point_iteration, anderson))
        assert ours.sum() >= plain.sum(), steps


def test_anderson_goes_back_where_an_extrapolation_leaves_the_domain():
    """f(z) = 0.9 z + 0.1 is NaN above z = 0.7: extrapolations from the left overshoot, plain steps do not reach it."""
    fun = lambda z: jnp.where(z > 0.7, jnp.nan, 0.9 * z + 0.1)  # noqa: E731
    z, stats = anderson(fun, jnp.zeros((1, 1)), tol=1e-9, max_steps=16)
    assert 0.5 < z[0, 0] <= 0.7 and np.isfinite(stats.residual[0])


def test_a_rejected_extrapolation_costs_one_evaluation():
    """A map whose slope changes its sign at every step: no extrapolation helps, and plain iteration is kept up with."""
    fun = lambda z: jnp.stack([-0.9 * z[:, 1] + 0.3 * jnp.sin(5 * z[:, 0]), 0.9 * z[:, 0]], axis=1)  # noqa: E731
    z0 = jnp.array([[1.0, 0.3], [-2.0, 0.7], [0.1, 2.0]])
    plain = fixed_point_iteration(fun, z0, tol=1e-6, max_steps=400)[1]
    ours = anderson(fun, z0, tol=1e-6, max_steps=400)[1]
    assert (ours.converged | ~plain.converged).all()


def test_the_best_iterate_is_not_one_that_blew_up():
    """‖f(z) − z‖ / ‖f(z)‖ of z = 1.3 z + 1 falls for ever, while z goes to infinity."""
    z, stats = fixed_point_iteration(lambda z: 1.3 * z + 1, jnp.zeros((1, 1)), tol=1e-6, max_steps=30)
    assert z[0, 0] == 0.0 and not stats.converged[0] and stats.residual[0] == 1.0


def test_the_residual_of_bfloat16_is_computed_in_float32():
    z0 = jnp.full((1, 4096), 1.0, jnp.bfloat16)
    stats = fixed_point_iteration(lambda z: z * 1.015625, z0, tol=0.0, max_steps=1, relative=False)[1]
    np.testing.assert_allclose(stats.residual, 64 * 0.015625, rtol=1e-6)


def test_a_tolerance_below_the_rounding_error_warns():
    with pytest.warns(UserWarning, match=r"less than the rounding error of bfloat16, 0.004"):
        fixed_point_iteration(lambda z: z, jnp.zeros((1, 2), jnp.bfloat16), tol=1e-3)


@pytest.mark.parametrize("name", [*SOLVERS, "gmres"])
def test_a_batch_of_none_and_a_traced_tolerance(name):
    solver = {**SOLVERS, "gmres": gmres}[name]
    z, stats = solver(lambda z: 0.5 * z + 1, jnp.zeros((0, 3)), tol=1e-6, max_steps=5)
    assert z.shape == (0, 3) and stats.converged.shape == (0,)
    solve = jax.jit(lambda tol: solver(lambda z: 0.5 * z + 1, jnp.zeros((2, 3)), tol=tol, max_steps=60))
    loose, tight = solve(1e-2), solve(1e-9)
    np.testing.assert_allclose(tight[0], 2.0, rtol=1e-7)
    assert tight[1].num_steps >= loose[1].num_steps and tight[1].converged.all()


@pytest.mark.parametrize("radius", [0.5, 0.95, 1.3, 4.0])
@pytest.mark.parametrize("memory", [12, 40])
def test_gmres_solves_an_affine_problem_of_any_radius(radius, memory):
    fun, z0, solution = linear_problem(radius=radius, size=12)
    z, stats = gmres(fun, z0 + 1.0, tol=1e-11, max_steps=200, memory=memory, trace=True)
    np.testing.assert_allclose(z, solution, rtol=1e-7, atol=1e-7)
    assert stats.converged.all() and stats.num_steps <= 14
    measured = np.linalg.norm(fun(z) - z, axis=1) / np.linalg.norm(fun(z0 + 1.0), axis=1)
    np.testing.assert_allclose(stats.residual, measured, atol=1e-13)
    trace = stats.trace[: int(stats.num_steps)]
    assert (np.diff(trace, axis=0)[~np.isnan(np.diff(trace, axis=0))] <= 1e-14).all()


def test_gmres_agrees_with_jax_scipy_and_restarts():
    fun, z0, _ = linear_problem(batch=1, radius=0.9, size=30)
    matrix = jnp.eye(30) - jax.jacobian(lambda z: fun(z[None])[0])(jnp.zeros(30))
    for steps in (5, 10, 20):
        z, _ = gmres(fun, z0, tol=0.0, max_steps=steps + 1, memory=5)
        expected, _ = jax.scipy.sparse.linalg.gmres(
            lambda v: matrix @ v, fun(z0)[0], tol=0.0, restart=5, maxiter=steps // 5, solve_method="incremental"
        )
        np.testing.assert_allclose(z[0], expected, rtol=1e-8, atol=1e-10)


def test_gmres_stops_at_a_singular_system():
    z, stats = gmres(lambda z: z + jnp.array([[1.0, 0.0]]), jnp.zeros((2, 2)), tol=1e-9, max_steps=20, relative=False)
    assert np.isfinite(z).all() and not stats.converged.any()


def test_scale_replaces_the_divisor_of_the_residual():
    fun, z0 = tanh_problem()
    scale = jnp.array([1.0, 2.0, 4.0, 8.0])
    kwargs = dict(tol=0.0, max_steps=4)
    absolute = fixed_point_iteration(fun, z0, relative=False, **kwargs)[1].residual
    np.testing.assert_allclose(fixed_point_iteration(fun, z0, scale=scale, **kwargs)[1].residual, absolute / scale)

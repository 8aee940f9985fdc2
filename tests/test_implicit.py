from functools import partial

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.implicit import adjoint_probe, equilibrium, jacobian_regularization, spectral_radius
from jaxlm.solvers import anderson, broyden, fixed_point_iteration, gmres

pytestmark = pytest.mark.usefixtures("float64")
TIGHT = dict(tol=1e-13, max_steps=400)


def problem(batch=3, size=6, seed=0):
    rng = np.random.default_rng(seed)
    args = {
        "w": jnp.asarray(rng.normal(size=(size, size)) * 0.6 / np.sqrt(size)),
        "x": jnp.asarray(rng.normal(size=(batch, size))),
    }
    return lambda z, args: jnp.tanh(z @ args["w"] + args["x"]), jnp.zeros((batch, size)), args


def loss_of(fun, z0, **kwargs):
    return lambda args: jnp.sum(jnp.sin(equilibrium(fun, z0, args, **kwargs)[0]) * jnp.arange(1.0, 7.0)[None])


def dense_gradient(fun, z0, args):
    """The implicit function theorem with explicit Jacobians."""
    z = fixed_point_iteration(lambda z: fun(z, args), z0, tol=0.0, max_steps=2000)[0]
    flat = lambda v: fun(v.reshape(z.shape), args).ravel()  # noqa: E731
    jacobian = jax.jacobian(flat)(z.ravel())
    incoming = jax.grad(lambda z: jnp.sum(jnp.sin(z) * jnp.arange(1.0, 7.0)[None]))(z).ravel()
    u = jnp.linalg.solve(jnp.eye(z.size) - jacobian.T, incoming)
    return jax.vjp(lambda args: fun(z, args).ravel(), args)[1](u)[0]


def relative_error(a, b):
    a, b = (jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(t)]) for t in (a, b))
    return jnp.linalg.norm(a - b) / jnp.linalg.norm(b)


@pytest.mark.parametrize("solver", [fixed_point_iteration, anderson, broyden])
@pytest.mark.parametrize("adjoint", [fixed_point_iteration, anderson, broyden, gmres])
def test_implicit_gradient_equals_the_dense_solve(solver, adjoint):
    fun, z0, args = problem()
    loss = loss_of(fun, z0, solver=partial(solver, **TIGHT), adjoint_solver=partial(adjoint, **TIGHT))
    assert relative_error(jax.jit(jax.grad(loss))(args), dense_gradient(fun, z0, args)) < 1e-8


@pytest.mark.parametrize("solver", [fixed_point_iteration, anderson])
def test_unrolled_and_implicit_gradients_agree(solver):
    fun, z0, args = problem()
    solver = partial(solver, tol=1e-14, max_steps=150)
    implicit = jax.grad(loss_of(fun, z0, solver=solver))(args)
    unrolled = jax.grad(loss_of(fun, z0, solver=solver, gradient="unrolled"))(args)
    assert relative_error(implicit, unrolled) < 1e-8


def test_phantom_gradient_tends_to_the_exact_one():
    fun, z0, args = problem()
    exact = dense_gradient(fun, z0, args)

    def error(**kwargs):
        return relative_error(jax.grad(loss_of(fun, z0, solver=partial(anderson, **TIGHT), **kwargs))(args), exact)

    errors = [error(gradient="phantom", phantom_steps=k, phantom_damping=0.8) for k in (2, 8, 60)]
    assert errors[0] > 3 * errors[1] and errors[2] < 1e-8
    one = error(gradient="phantom", phantom_steps=1, phantom_damping=1.0)
    np.testing.assert_allclose(error(gradient="jacobian_free"), one, rtol=1e-6)
    assert one > 1e-3  # an approximation, and it must be seen to be one


@pytest.mark.parametrize("gradient", ["implicit", "jacobian_free", "phantom", "unrolled"])
def test_no_gradient_through_z0_or_stats(gradient):
    fun, z0, args = problem()

    def loss(z0, args):
        z, stats = equilibrium(fun, z0, args, solver=partial(anderson, tol=1e-3, max_steps=4), gradient=gradient)
        return jnp.sum(z), stats.residual.sum()

    np.testing.assert_array_equal(jax.grad(lambda z0: loss(z0, args)[0])(z0), 0.0)
    assert all((g == 0).all() for g in jax.tree.leaves(jax.grad(lambda args: loss(z0, args)[1])(args)))


def test_closed_over_parameters_are_differentiated():
    fun, z0, args = problem()
    solver = partial(anderson, **TIGHT)
    expected = jax.grad(loss_of(fun, z0, solver=solver))(args)

    def loss(args):
        z, _ = equilibrium(lambda z, _: fun(z, args), z0, (), solver=solver)
        return jnp.sum(jnp.sin(z) * jnp.arange(1.0, 7.0)[None])

    assert relative_error(jax.jit(jax.grad(loss))(args), expected) < 1e-12


def test_backward_stats_reach_the_caller():
    fun, z0, args = problem()
    adjoint = partial(anderson, tol=1e-6, max_steps=40, trace=True)

    def loss(args, probe):
        kwargs = dict(solver=partial(anderson, **TIGHT), adjoint_solver=adjoint, adjoint_probe=probe)
        z, stats = equilibrium(fun, z0, args, **kwargs)
        return jnp.sum(z**2), stats

    probe = adjoint_probe(adjoint, z0)
    (_, _), (_, backward) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(args, probe)
    assert 1 < backward.num_steps < 40 and (backward.converged == 1.0).all()
    assert (backward.residual <= 1e-6).all()
    np.testing.assert_allclose(np.nanmin(backward.trace, axis=0), backward.residual)


def test_implicit_memory_does_not_grow_with_steps():
    fun, _, args = problem(batch=64, size=128)
    z0 = jnp.zeros((64, 128))

    def temporary_bytes(gradient, steps):
        solver = partial(fixed_point_iteration, tol=0.0, max_steps=steps)
        loss = lambda args: jnp.sum(equilibrium(fun, z0, args, solver=solver, gradient=gradient)[0])  # noqa: E731
        return jax.jit(jax.grad(loss)).lower(args).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes("implicit", 64) <= 1.02 * temporary_bytes("implicit", 2)
    assert temporary_bytes("unrolled", 64) > 4 * temporary_bytes("unrolled", 2)


def test_jacobian_regularization_estimates_the_frobenius_norm():
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=(5, 5)))
    z = jnp.zeros((2, 5))
    estimate = jacobian_regularization(lambda z, w: z @ w, z, w, jax.random.key(0), num_samples=4000)
    np.testing.assert_allclose(estimate, jnp.sum(w**2) / 5, rtol=0.05)
    slope = jax.grad(lambda w: jacobian_regularization(lambda z, w: z @ w, z, w, jax.random.key(0))[0])(w)
    assert (slope != 0).any()


def test_spectral_radius_of_real_and_complex_spectra():
    rotation = 0.8 * jnp.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.3]])
    diagonal = jnp.diag(jnp.array([0.2, -0.9, 0.5]))
    z = jnp.zeros((2, 3))
    weights = jnp.stack([rotation, diagonal])
    radius = spectral_radius(lambda z, w: jnp.einsum("bij,bj->bi", w, z), z, weights, jax.random.key(1), 200)
    np.testing.assert_allclose(radius, [0.8, 0.9], rtol=1e-2)


def test_unknown_gradient_is_an_error():
    fun, z0, args = problem()
    with pytest.raises(Exception, match="exact"):
        equilibrium(fun, z0, args, solver=anderson, gradient="exact")
    with pytest.raises(ValueError, match="phantom_steps must be at least 1"):
        equilibrium(fun, z0, args, solver=anderson, gradient="phantom", phantom_steps=0)


def second_derivatives(gradient, solver, adjoint, start):
    """Relative errors of Hessian-vector products, forward and reverse over reverse, and of jacfwd of the gradient."""
    fun, z0, args = problem(batch=2, size=6)
    flat, unravel = jax.flatten_util.ravel_pytree(args)
    z_star = fixed_point_iteration(lambda z: fun(z, args), z0, tol=0.0, max_steps=500)[0]
    options = dict(solver=solver, adjoint_solver=adjoint, gradient=gradient)
    slope = jax.grad(lambda flat: loss_of(fun, {"zero": z0, "solution": z_star}[start], **options)(unravel(flat)))

    def unrolled(flat):
        z = jax.lax.scan(lambda z, _: (fun(z, unravel(flat)), None), z0, None, length=120)[0]
        return jnp.sum(jnp.sin(z) * jnp.arange(1.0, 7.0)[None])

    v = jax.random.normal(jax.random.key(3), flat.shape)
    exact = jax.jit(lambda flat: jax.jvp(jax.grad(unrolled), (flat,), (v,))[1])(flat)
    forward = jax.jit(lambda flat: jax.jvp(slope, (flat,), (v,))[1])(flat)
    reverse = jax.jit(jax.grad(lambda flat: slope(flat) @ v))(flat)
    whole = jax.jit(jax.jacfwd(slope))(flat) @ v
    return [relative_error(found, exact) for found in (forward, reverse, whole)]


@pytest.mark.parametrize("start", ["zero", "solution"])
@pytest.mark.parametrize("gradient", ["implicit", "implicit_jvp"])
def test_second_derivatives_come_from_the_implicit_function_theorem(gradient, start):
    errors = second_derivatives(gradient, partial(anderson, **TIGHT), None, start)
    assert max(errors) < 1e-9, errors


@pytest.mark.parametrize("solver", [fixed_point_iteration, anderson, broyden])
def test_second_derivatives_with_any_solver(solver):
    """The tolerance of the forward solver limits them, not its loop: a warm start that stops at once is as good."""
    solver = partial(solver, **TIGHT)
    assert max(second_derivatives("implicit", solver, solver, "solution")) < 1e-9


def test_forward_mode_gives_the_jacobian_of_the_equilibrium():
    fun, z0, args = problem()
    z = lambda args: equilibrium(fun, z0, args, solver=partial(anderson, **TIGHT), gradient="implicit_jvp")[0]  # noqa: E731
    jacobian = jax.jit(jax.jacfwd(z))(args)
    exact = jax.jacrev(lambda args: fixed_point_iteration_scan(fun, z0, args))(args)
    assert relative_error(jacobian, exact) < 1e-9
    assert relative_error(jax.jit(jax.jacrev(z))(args), exact) < 1e-9


def fixed_point_iteration_scan(fun, z0, args):
    return jax.lax.scan(lambda z, _: (fun(z, args), None), z0, None, length=150)[0]


@pytest.mark.parametrize("gradient", ["jacobian_free", "phantom", "unrolled"])
def test_forward_mode_of_the_other_gradients(gradient):
    fun, z0, args = problem(batch=1)
    loss = loss_of(fun, z0, solver=partial(anderson, tol=1e-6, max_steps=6), gradient=gradient)
    direction = jax.tree.map(jnp.ones_like, args)
    slope = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (jax.grad(loss)(args), direction)), strict=True))
    np.testing.assert_allclose(jax.jvp(loss, (args,), (direction,))[1], slope, rtol=1e-10)


@pytest.mark.parametrize("solver", [fixed_point_iteration, anderson])
def test_an_unstable_map_has_its_exact_gradient(solver):
    """z = 1.3 z + a: iteration blows up, and so does the adjoint's; dz/da = 1 / (1 − 1.3)."""
    fun = lambda z, a: 1.3 * z + a  # noqa: E731
    slope = jax.grad(lambda a: equilibrium(fun, jnp.zeros((1, 1)), a, solver=partial(solver, max_steps=30))[0].sum())
    np.testing.assert_allclose(slope(1.0), -1 / 0.3, rtol=1e-9)


def adjoint_of_an_oscillating_map(adjoint, fallback=None):
    """Gradient (exact 0.41546) of z = tanh(−1.4 z + a), and the statistics of its adjoint."""

    def loss(a, probe):
        z, _ = equilibrium(
            lambda z, a: jnp.tanh(-1.4 * z + a),
            jnp.zeros((1, 1)),
            a,
            solver=partial(anderson, tol=1e-12, max_steps=60),
            adjoint_solver=adjoint,
            adjoint_probe=probe,
            fallback=fallback,
            phantom_steps=20,
        )
        return z.sum()

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(0.2, adjoint_probe(adjoint, jnp.zeros((1, 1))))


def test_an_adjoint_that_did_not_converge_is_counted_and_replaced():
    z = anderson(lambda z: jnp.tanh(-1.4 * z + 0.2), jnp.zeros((1, 1)), tol=1e-14, max_steps=60)[0][0, 0]
    exact = (1 - z**2) / (1 + 1.4 * (1 - z**2))
    good, stats = adjoint_of_an_oscillating_map(None)
    np.testing.assert_allclose(good, exact, rtol=1e-9)
    assert stats.converged == 1.0
    plain = partial(fixed_point_iteration, tol=1e-9, max_steps=50)
    kept, stats = adjoint_of_an_oscillating_map(plain)
    # The best iterate is the Jacobian-free gradient: iteration only makes it worse.
    np.testing.assert_allclose(kept, 1 - z**2, rtol=1e-9)
    assert stats.converged == 0.0
    np.testing.assert_allclose(stats.residual, 1.4 * (1 - z**2), rtol=1e-6)  # of ḡ, over ‖ḡ‖
    replaced, stats = adjoint_of_an_oscillating_map(plain, gmres)
    np.testing.assert_allclose(replaced, exact, rtol=1e-9)
    assert stats.converged == 0.0
    phantom, _ = adjoint_of_an_oscillating_map(plain, "phantom")
    np.testing.assert_allclose(phantom, exact, rtol=1e-4)


@pytest.mark.parametrize("gradient", ["implicit", "implicit_jvp", "jacobian_free", "phantom", "unrolled"])
def test_closed_over_masks_and_integers(gradient):
    mask, shift = jnp.array([[True, False, True, True]]), jnp.arange(4)

    def loss(w, mask, shift):
        fun = lambda z, _: jnp.where(mask, jnp.tanh(z @ w + shift[None]), 0.1 * z + 0.3)  # noqa: E731
        z0, solver = jnp.zeros((2, 4)), partial(anderson, tol=1e-12, max_steps=4)
        return equilibrium(fun, z0, (), solver=solver, gradient=gradient)[0].sum()

    w = 0.3 * jnp.eye(4) + 0.1
    expected = jax.jit(jax.grad(loss))(w, mask, shift)
    assert (expected != 0).any()
    np.testing.assert_allclose(jax.grad(jax.jit(loss))(w, mask, shift), expected)

    def over_a_scan(w):
        return jax.lax.scan(lambda total, i: (total + loss(w, mask, shift + i), None), 0.0, jnp.arange(2))[0]

    both = expected + jax.jit(jax.grad(loss))(w, mask, shift + 1)
    np.testing.assert_allclose(jax.jit(jax.grad(over_a_scan))(w), both, rtol=1e-9)


def test_settings_of_the_solvers_may_be_traced():
    def loss(a, tol):
        solvers = dict(solver=partial(anderson, tol=tol, max_steps=80), adjoint_solver=partial(gmres, tol=tol))
        return equilibrium(lambda z, a: 0.5 * z + a, jnp.zeros((2, 3)), a, **solvers)[0].sum()

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(1.0, 1e-9), 12.0, rtol=1e-7)
    np.testing.assert_allclose(jax.grad(jax.jit(loss))(1.0, 1e-9), 12.0, rtol=1e-7)


@pytest.mark.parametrize("solver", [fixed_point_iteration, anderson, broyden])
def test_a_sample_that_overflows_leaves_the_unrolled_gradient_of_the_others(solver):
    fun = lambda z, a: jnp.exp(5 * z) * a - 1  # noqa: E731
    a = jnp.array([[0.05], [2.0]])

    def loss(shared, a, z0):
        z, _ = equilibrium(fun, z0, shared * a, solver=partial(solver, tol=1e-9, max_steps=5), gradient="unrolled")
        return z[0].sum()

    both = jax.jit(jax.grad(loss, argnums=(0, 1)))(1.0, a, jnp.array([[0.1], [1.5]]))
    alone = jax.jit(jax.grad(loss, argnums=(0, 1)))(1.0, a[:1], jnp.array([[0.1]]))
    assert np.isfinite(both[1]).all()
    # The gradient of the others is then the implicit one; at convergence it is the same.
    np.testing.assert_allclose(both[0], alone[0], rtol=0.02)
    np.testing.assert_allclose(both[1][0], alone[1][0], rtol=0.02)


def test_a_batch_of_none_has_a_gradient():
    fun, _, args = problem()
    args = {**args, "x": jnp.zeros((0, 6))}
    for gradient in ("implicit", "implicit_jvp", "jacobian_free", "phantom", "unrolled"):
        solver = partial(anderson, tol=1e-6, max_steps=4)
        slope = jax.grad(lambda w: loss_of(fun, jnp.zeros((0, 6)), solver=solver, gradient=gradient)({**args, "w": w}))  # noqa: B023
        np.testing.assert_array_equal(slope(args["w"]), 0.0)
    assert jacobian_regularization(fun, jnp.zeros((0, 6)), args, jax.random.key(0)).shape == (0,)
    assert spectral_radius(fun, jnp.zeros((0, 6)), args, jax.random.key(0)).shape == (0,)

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.implicit import adjoint_probe, equilibrium, jacobian_regularization, spectral_radius
from jaxlm.solvers import anderson, broyden, fixed_point_iteration

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
@pytest.mark.parametrize("adjoint", [fixed_point_iteration, anderson, broyden])
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

"""Differentiable equilibria: z* with z* = fun(z*, args), and its gradient with respect to `args`.

`equilibrium` is the entry point. Four gradients of the literature can be chosen by name, and one for forward mode:

- `"implicit"`: the implicit function theorem, Eq. (5) of Micaelli et al., CVPR 2023 (Bai et al., NeurIPS 2019). The
  row vector uᵀ = ḡᵀ (I − J)⁻¹ solves the linear system u = ḡ + Jᵀu, and the adjoint solver finds it. The memory is
  that of one application of `fun`, for any number of solver steps.
- `"implicit_jvp"`: the same theorem as a tangent, ż = (I − J)⁻¹ ḟ. It serves `jax.jvp` and `jax.jacfwd`, and reverse
  mode as well, which then brings no statistics.
- `"jacobian_free"`: (I − J)⁻¹ is replaced by I, which differentiates one application of `fun` at z* (Fung et al.,
  AAAI 2022).
- `"phantom"`: backpropagation through a few damped steps from z* (Geng et al., NeurIPS 2021).
- `"unrolled"`: backpropagation through the solver; its memory grows with `max_steps`.

Both implicit gradients can be differentiated again, in either mode: no derivative is taken of a solver's loop. The
tangent of a solution, forward or adjoint, is the solution of another linear system.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes, lax
from jax.extend import core
from jaxtyping import Array, Float, PyTree

from jaxlm.solvers import FEW_STEPS, SolverStats, gmres

Gradient = Literal["implicit", "implicit_jvp", "jacobian_free", "phantom", "unrolled"]
Solver = Callable[..., tuple[Any, SolverStats]]


def equilibrium(
    fun: Callable[[Any, Any], Any],
    z0: PyTree,
    args: PyTree,
    *,
    solver: Solver,
    adjoint_solver: Solver | None = None,
    gradient: Gradient = "implicit",
    phantom_steps: int = 5,
    phantom_damping: float = 0.5,
    fallback: Solver | Literal["phantom"] | None = None,
    adjoint_probe: SolverStats | None = None,
) -> tuple[PyTree, SolverStats]:
    """Solves z = fun(z, args) and applies `fun` once more, with a gradient for `args`.

    Every `gradient` returns f(z*) for the solver's z*, except `"phantom"`, which returns the result of its damped
    steps from z*. No gradient flows through `z0` or the statistics. All support reverse mode and forward over reverse
    mode; all but `"implicit"` also forward mode alone.

    Args:
        fun: (z, args) -> z. The gradient also flows into arrays that it closes over.
        z0: first iterate, a pytree of leaves (B, ...).
        args: pytree of all else that `fun` needs: parameters and injections.
        solver: a function of `jaxlm.solvers`, or a `functools.partial` of one with its settings, of which `tol`, `beta`
            and `ridge` may be traced.
        adjoint_solver: solver of the linear system u = ḡ + Jᵀu and of the systems of further derivatives. Its residual
            is divided by ‖ḡ‖. None takes `jaxlm.solvers.gmres`.
        gradient: one of the gradients that the module's docstring describes.
        phantom_steps: number of damped steps of `"phantom"`, at least 1.
        phantom_damping: damping λ of these steps in (0, 1], z ← (1 − λ) z + λ f(z).
        fallback: for the samples whose adjoint did not converge, in `"implicit"`: another solver, or "phantom" for the
            phantom gradient; None keeps the best iterate. The statistics count these samples as not converged.
        adjoint_probe: zeros from `adjoint_probe()`, for `"implicit"` only. The gradient with respect to them is the
            adjoint solver's SolverStats, as floats: the caller gets the statistics of the backward pass this way.

    Returns:
        z (B, ...) and the statistics of the forward solve.

    Raises:
        ValueError: if `gradient` is unknown, or if a phantom setting is out of range.
    """
    if gradient not in get_args(Gradient):
        raise ValueError(f"gradient must be one of {', '.join(get_args(Gradient))}, got {gradient!r}.")
    if phantom_steps < 1 or not 0 < phantom_damping <= 1:
        raise ValueError(
            f"phantom_steps must be at least 1 and phantom_damping in (0, 1], got {phantom_steps}, {phantom_damping}."
        )
    z0 = lax.stop_gradient(z0)
    hoisted, arrays = _hoist(fun, z0, args)
    everything = (args, arrays)

    def step(z, everything):
        return hoisted(z, *everything)

    if gradient == "implicit_jvp":
        problem = _Problem(step, _known_part(solver), _known_part(adjoint_solver or gmres), None)
        z, stats = _root(problem, (_traced_part(solver), _traced_part(adjoint_solver)), z0, everything)
        return step(z, everything), stats
    if gradient == "implicit":
        damped = functools.partial(_damped_steps, steps=phantom_steps, damping=phantom_damping)
        second: Any = functools.partial(_phantom_adjoint, damped) if fallback == "phantom" else fallback
        problem = _Problem(step, _known_part(solver), _known_part(adjoint_solver or gmres), second)
        options = _traced_part(solver), _traced_part(adjoint_solver)
        return _implicit(problem, options, z0, everything, adjoint_probe)
    if gradient == "unrolled":
        problem = _Problem(step, _known_part(solver), functools.partial(gmres, max_steps=20, memory=4), None)
        z, stats = _unrolled(problem, (_traced_part(solver), {}), z0, everything)
        return step(z, everything), stats

    z, stats = lax.stop_gradient(solver(lambda z: step(z, lax.stop_gradient(everything)), z0))
    if gradient == "jacobian_free":
        return step(z, everything), stats
    return _damped_steps(lambda z: step(z, everything), z, steps=phantom_steps, damping=phantom_damping), stats


def adjoint_probe(solver: Solver | None, z0: PyTree) -> SolverStats:
    """Zeros to pass as `equilibrium(adjoint_probe=...)`, shaped like the statistics of the adjoint solver `solver`.

    Example:
        grads, backward = jax.grad(loss, argnums=(0, 1))(params, adjoint_probe(adjoint_solver, z0))
    """
    stats = jax.eval_shape(lambda z: (solver or gmres)(lambda z: z, z)[1], z0)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, _float(leaf.dtype)), stats)


class _Problem(NamedTuple):
    """What a solve needs apart from arrays: the map (z, everything) -> z and the solvers."""

    step: Callable[[Any, Any], Any]
    solver: Solver
    linear_solver: Solver
    fallback: Solver | None


def _hoist(fun, z0, args):
    """A function (z, args, arrays) -> z that closes over no array, and the arrays that `fun` closes over.

    `jax.closure_convert` leaves integers and booleans where they are; a `custom_vjp` then meets them as leaked tracers.
    """
    closed, shapes = jax.make_jaxpr(fun, return_shape=True)(z0, args)
    structure = jax.tree.structure(shapes)

    def hoisted(z, args, arrays):
        function = core.jaxpr_as_fun(core.ClosedJaxpr(closed.jaxpr, arrays))
        return jax.tree.unflatten(structure, function(*jax.tree.leaves((z, args))))

    return hoisted, closed.consts


def _traced_part(solver: Solver | None) -> dict[str, Array]:
    """Settings of the solver that are arrays: they must reach a function with a custom derivative as arguments."""
    keywords = solver.keywords if isinstance(solver, functools.partial) else {}
    return {key: value for key, value in keywords.items() if isinstance(value, jax.Array)}


def _known_part(solver: Solver) -> Solver:
    traced = _traced_part(solver)
    if not traced:
        return solver
    assert isinstance(solver, functools.partial)
    known = {key: value for key, value in solver.keywords.items() if key not in traced}
    return functools.partial(solver.func, *solver.args, **known)


def _damped_steps(fun, z: PyTree, *, steps: int, damping: float) -> PyTree:
    def damped(z, _):
        return jax.tree.map(lambda a, b: a + damping * (b - a), z, fun(z)), None

    return lax.scan(damped, z, None, length=steps, unroll=steps <= FEW_STEPS)[0]


def _phantom_adjoint(damped, fun, u0: PyTree, *, scale: Array):
    """What the phantom gradient takes for the solution of u = ḡ + Jᵀu: some damped steps from zero."""
    del scale
    return damped(fun, jax.tree.map(jnp.zeros_like, u0)), None


def _linear_solve(problem: _Problem, options, operator, right: PyTree, fallback: Solver | None = None):
    """Solution of A x = right for an operator A = I − J that is linear in its argument, and the statistics."""

    def solve(operator, right):
        def fun(x):
            return jax.tree.map(lambda b, v, a: b + (v - a), right, x, operator(x))

        scale = jnp.sqrt(_squared_norm(right))
        x, stats = problem.linear_solver(fun, right, scale=scale, **options[1])
        if fallback is not None:
            other = functools.partial(fallback, fun, right, scale=scale)
            x = lax.cond(stats.converged.all(), lambda: x, lambda: _select(stats.converged, x, other()[0]))
        return x, stats

    return lax.custom_linear_solve(operator, right, solve, solve, has_aux=True)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _root(problem: _Problem, options, z0, everything):
    return problem.solver(lambda z: problem.step(z, everything), z0, **options[0])


@_root.defjvp
def _root_tangent(problem, primals, tangents):
    options, _, everything = primals
    z, stats = _root(problem, *primals)
    z_dot = _implicit_tangent(problem, options, z, everything, tangents[2])
    return (z, stats), (z_dot, jax.tree.map(_zero_tangent, stats))


def _implicit_tangent(problem: _Problem, options, z, everything, everything_dot):
    """Tangent ż = J ż + ḟ of the equilibrium z."""
    _, from_args = jax.jvp(lambda everything: problem.step(z, everything), (everything,), (everything_dot,))

    def operator(v):
        _, image = jax.jvp(lambda z: problem.step(z, everything), (z,), (v,))
        return jax.tree.map(jnp.subtract, v, image)

    return _linear_solve(problem, options, operator, from_args)[0]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _unrolled(problem: _Problem, options, z0, everything):
    return problem.solver(lambda z: problem.step(z, everything), z0, **options[0])


@_unrolled.defjvp
def _unrolled_tangent(problem, primals, tangents):
    """Tangent through the iterations; the implicit one of the other samples where a sample was lost.

    A step at which a sample overflows has no finite derivative, and times zero that would still be NaN for the
    parameters which all samples share.
    """
    options, z0, everything = primals
    solver = functools.partial(problem.solver, differentiable=True, trace=True, **options[0])
    iterate = lambda everything: solver(lambda z: problem.step(z, everything), z0)  # noqa: E731
    z, through_steps, stats = jax.linearize(iterate, everything, has_aux=True)
    lost = ~stats.converged & ~jnp.isfinite(stats.trace).all(axis=0)

    def of_the_others(everything_dot):
        def step(state, everything):
            return _select(lost, lax.stop_gradient(z), problem.step(state, everything))

        return _implicit_tangent(problem._replace(step=step), options, z, everything, everything_dot)

    # Selected before and after: what is NaN then reaches neither the tangent nor, in reverse mode, the gradient. The
    # usual case stays outside of the `cond`, where XLA's CPU backend runs the gradients of convolutions slowly.
    nothing, none = jax.tree.map(_zero_tangent, (everything, z))
    all_dot = through_steps(_where(lost.any(), nothing, tangents[2]))
    others_dot = lax.cond(lost.any(), jax.checkpoint(of_the_others), lambda _: none, tangents[2])
    z_dot = _where(lost.any(), others_dot, all_dot)
    keywords = problem.solver.keywords if isinstance(problem.solver, functools.partial) else {}
    stats = stats if keywords.get("trace") else stats._replace(trace=None)
    return (z, stats), (z_dot, jax.tree.map(_zero_tangent, stats))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _implicit(problem: _Problem, options, z0, everything, probe):
    return _implicit_forward(problem, options, z0, everything, probe)[0]


def _implicit_forward(problem, options, z0, everything, probe):
    z, stats = _root(problem, options, z0, everything)
    # Only the intermediates of this application are kept; every step of the adjoint solver uses them.
    fz, vjp = jax.vjp(problem.step, z, everything)
    return (fz, stats), (vjp, options, probe)


def _implicit_backward(problem, kept, cotangents):
    vjp, options, probe = kept
    incoming, _ = cotangents

    def operator(u):
        return jax.tree.map(jnp.subtract, u, vjp(u)[0])

    u, stats = _linear_solve(problem, options, operator, incoming, problem.fallback)
    if probe is not None:
        probe = jax.tree.map(lambda leaf: leaf.astype(_float(leaf.dtype)), stats)
    return None, None, vjp(u)[1], probe


_implicit.defvjp(_implicit_forward, _implicit_backward)


def jacobian_regularization(
    fun: Callable[[Any, Any], Any], z: PyTree, args: PyTree, rng: Array, num_samples: int = 1
) -> Float[Array, " B"]:
    """Hutchinson's estimate of ‖J‖²_F / N per sample, J = ∂fun/∂z at z, to be added to a loss (Bai et al., ICML 2021).

    Args:
        fun: (z, args) -> z.
        z: equilibrium, leaves (B, ...) with N numbers in each sample; no gradient flows into it.
        args: parameters and injections; the gradient flows into them.
        rng: key of the probes.
        num_samples: number of Gaussian probes that are averaged.
    """
    z = lax.stop_gradient(z)
    _, vjp = jax.vjp(lambda z: fun(z, args), z)
    size = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(z))

    def sample(rng):
        return _squared_norm(vjp(_random_like(rng, z))[0]) / size

    return jnp.mean(jnp.stack([sample(key) for key in jax.random.split(rng, num_samples)]), axis=0)


def spectral_radius(
    fun: Callable[[Any, Any], Any], z: PyTree, args: PyTree, rng: Array, num_steps: int = 50
) -> Float[Array, " B"]:
    """Power-iteration estimate of |λ|max of ∂fun/∂z at z, per sample; the equilibrium is attracting below 1.

    Jᵀ is iterated: it has the spectrum of J, and every cell supports reverse mode. The result is the geometric mean of
    the growth of ‖(Jᵀ)ᵏv‖ over the second half of the steps, because the norm oscillates if the leading eigenvalues are
    a complex pair.

    Args:
        fun: (z, args) -> z.
        z: equilibrium, leaves (B, ...).
        args: parameters and injections.
        rng: key of the first vector.
        num_steps: applications of Jᵀ, at least 2.
    """
    if num_steps < 2:
        raise ValueError(f"num_steps must be at least 2, got {num_steps}.")
    vjp = jax.vjp(lambda z: fun(z, args), z)[1]

    def step(v, _):
        norm = jnp.sqrt(_squared_norm(v))
        safe = jnp.where(norm > 0, norm, 1.0)
        unit = jax.tree.map(lambda x: (x / _expand(safe, x)).astype(x.dtype), v)
        return vjp(unit)[0], norm

    v, norms = lax.scan(step, _random_like(rng, z), None, length=num_steps)
    growth = jnp.concatenate([norms[1:], jnp.sqrt(_squared_norm(v))[None]])
    return jnp.exp(jnp.mean(jnp.log(growth[num_steps // 2 :]), axis=0))


def _random_like(rng: Array, tree: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(rng, len(leaves))
    return jax.tree.unflatten(
        treedef, [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    )


def _squared_norm(tree: PyTree) -> Float[Array, " B"]:
    leaves = [leaf.astype(_float(leaf.dtype)) for leaf in jax.tree.leaves(tree)]
    total = sum(jnp.sum(jnp.square(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in leaves)
    return jnp.asarray(total)


def _select(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(_expand(condition, a), a, b), yes, no)


def _where(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    """`jnp.where` on a pytree of tangents; those of integers, which carry nothing, stay as they are."""
    return jax.tree.map(lambda a, b: a if a.dtype == dtypes.float0 else jnp.where(condition, a, b), yes, no)


def _zero_tangent(value: Array) -> Any:
    if jnp.issubdtype(value.dtype, jnp.floating):
        return jnp.zeros_like(value)
    return np.zeros(value.shape, dtypes.float0)


def _expand(values: Array, like: Array) -> Array:
    return values.reshape(values.shape + (1,) * (like.ndim - 1))


def _float(dtype):
    return jnp.promote_types(dtype, jnp.float32)

"""Differentiable equilibria: z* with z* = fun(z*, args), and its gradient with respect to `args`.

`equilibrium` is the entry point. Apart from `jaxlm.networks`, only this module defines a `custom_vjp`.
Four gradients of the literature can be chosen by name:

- `"implicit"`: the implicit function theorem, Eq. (5) of Micaelli et al., CVPR 2023 (Bai et al., NeurIPS 2019). The
  row vector uᵀ = ḡᵀ (I − J)⁻¹ is itself a fixed point, u = ḡ + Jᵀu, and the adjoint solver finds it. The memory is
  that of one application of `fun`, for any number of solver steps.
- `"jacobian_free"`: (I − J)⁻¹ is replaced by I, which differentiates one application of `fun` at z* (Fung et al.,
  AAAI 2022).
- `"phantom"`: backpropagation through a few damped steps from z* (Geng et al., NeurIPS 2021).
- `"unrolled"`: backpropagation through the solver; its memory grows with `max_steps`.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jaxlm.solvers import FEW_STEPS, SolverStats

Gradient = Literal["implicit", "jacobian_free", "phantom", "unrolled"]
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
    adjoint_probe: SolverStats | None = None,
) -> tuple[PyTree, SolverStats]:
    """Solves z = fun(z, args) and applies `fun` once more, with a gradient for `args`.

    Every `gradient` returns f(z*) for the solver's z*, except `"phantom"`, which returns the result of its damped
    steps from z*. No gradient flows through `z0` or the statistics. Use reverse mode; forward mode is for
    `"unrolled"` only.

    Args:
        fun: (z, args) -> z. The gradient also flows into arrays that it closes over.
        z0: first iterate, a pytree of leaves (B, ...).
        args: pytree of all else that `fun` needs: parameters and injections.
        solver: a function of `jaxlm.solvers`, or a `functools.partial` of one with its settings.
        adjoint_solver: solver of u = ḡ + Jᵀu for `"implicit"`; None takes `solver`.
        gradient: one of the four gradients that the module's docstring describes.
        phantom_steps: number of damped steps of `"phantom"`, at least 1.
        phantom_damping: damping λ of these steps in (0, 1], z ← (1 − λ) z + λ f(z).
        adjoint_probe: zeros from `adjoint_probe()`, for `"implicit"` only. The gradient with respect to them is the
            adjoint solver's SolverStats, as floats: the caller gets the statistics of the backward pass this way.

    Returns:
        z (B, ...) and the statistics of the forward solve.

    Raises:
        ValueError: if `gradient` is not one of the four, or if a phantom setting is out of range.
    """
    if gradient not in ("implicit", "jacobian_free", "phantom", "unrolled"):
        raise ValueError(f"gradient must be implicit, jacobian_free, phantom or unrolled, got {gradient!r}.")
    if phantom_steps < 1 or not 0 < phantom_damping <= 1:
        raise ValueError(
            f"phantom_steps must be at least 1 and phantom_damping in (0, 1], got {phantom_steps}, {phantom_damping}."
        )
    z0 = lax.stop_gradient(z0)
    fun, closed = jax.closure_convert(fun, z0, args)
    everything = (args, closed)

    def step(z, everything):
        args, closed = everything
        return fun(z, args, *closed)

    if gradient == "unrolled":
        unrolled = functools.partial(solver, differentiable=True)
        z, stats = unrolled(lambda z: step(z, everything), z0)
        return step(z, everything), lax.stop_gradient(stats)
    if gradient == "implicit":
        return _implicit(step, solver, adjoint_solver or solver, z0, everything, adjoint_probe)

    z, stats = lax.stop_gradient(solver(lambda z: step(z, lax.stop_gradient(everything)), z0))
    if gradient == "jacobian_free":
        return step(z, everything), stats

    def damped(z, _):
        fz = step(z, everything)
        return jax.tree.map(lambda a, b: a + phantom_damping * (b - a), z, fz), None

    return lax.scan(damped, z, None, length=phantom_steps, unroll=phantom_steps <= FEW_STEPS)[0], stats


def adjoint_probe(solver: Solver, z0: PyTree) -> SolverStats:
    """Zeros to pass as `equilibrium(adjoint_probe=...)`, shaped like the statistics of the adjoint solver `solver`.

    Example:
        grads, backward = jax.grad(loss, argnums=(0, 1))(params, adjoint_probe(adjoint_solver, z0))
    """
    stats = jax.eval_shape(lambda z: solver(lambda z: z, z)[1], z0)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, _float(leaf.dtype)), stats)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _implicit(step, solver, adjoint_solver, z0, args, probe):
    return _implicit_forward(step, solver, adjoint_solver, z0, args, probe)[0]


def _implicit_forward(step, solver, adjoint_solver, z0, args, probe):
    del adjoint_solver
    z, stats = solver(lambda z: step(z, args), z0)
    # Only the intermediates of this application are kept; every step of the adjoint solver uses them.
    fz, vjp = jax.vjp(step, z, args)
    return (fz, stats), (vjp, z0, probe)


def _implicit_backward(step, solver, adjoint_solver, kept, cotangents):
    del step, solver
    vjp, z0, probe = kept
    incoming, _ = cotangents

    def adjoint(u):
        return jax.tree.map(jnp.add, incoming, vjp(u)[0])

    u, stats = adjoint_solver(adjoint, incoming)
    if probe is not None:
        probe = jax.tree.map(lambda leaf: leaf.astype(_float(leaf.dtype)), stats)
    return jax.tree.map(jnp.zeros_like, z0), vjp(u)[1], probe


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
    size = sum(leaf.size for leaf in jax.tree.leaves(z)) / jax.tree.leaves(z)[0].shape[0]

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
    total = sum(jnp.sum(jnp.square(leaf).reshape(leaf.shape[0], -1), axis=1) for leaf in leaves)
    return jnp.asarray(total)


def _expand(values: Array, like: Array) -> Array:
    return values.reshape((-1,) + (1,) * (like.ndim - 1))


def _float(dtype):
    return jnp.promote_types(dtype, jnp.float32)

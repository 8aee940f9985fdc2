"""Vertex and parameter distance costs, Eqs. (4) to (7) of Guo et al., ECCV 2020, and the losses made of them."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxlm.face3d import parameters
from jaxlm.face3d.morphable import MorphableModel, select_vertices
from jaxlm.systems.tddfa.settings import Config


def vdc(pred: Float[Array, "B P"], target: Float[Array, "B P"], model: MorphableModel) -> Float[Array, " B"]:
    """Vertex distance cost, Eq. (4) of Guo et al., ECCV 2020: ‖V(p) − V(p^g)‖² over all vertices of `model`.

    No image tells how far away a face is, so the z of the translation is left out. As the equation writes it the
    squares are added up (the first 3DDFA's code takes their mean); their unit is the crop's pixel.

    Args:
        pred: z-scored parameters.
        target: ground truth, likewise.
        model: with the parameters' mean and standard deviation.
    """
    difference = _vertices(pred, model) - lax.stop_gradient(_vertices(target, model))
    return jnp.square(difference).sum(axis=(-1, -2))


def wpdc(
    pred: Float[Array, "B P"], target: Float[Array, "B P"], model: MorphableModel, *, squared_weights: bool = True
) -> Float[Array, " B"]:
    """Weighted parameter distance cost, Eqs. (6)–(7) of Guo et al., ECCV 2020, as it is defined.

    Each weight takes a reconstruction of all vertices with one parameter of the prediction among those of the truth;
    `fwpdc` gives the same number faster. No gradient flows through the weights.

    Args:
        pred: z-scored parameters.
        target: ground truth, likewise.
        model: with the parameters' mean and standard deviation.
        squared_weights: as Eq. (6) has it; the first 3DDFA's code weighs the squares by w itself.
    """
    truth = _vertices(target, model)

    def weight(number: Array) -> Array:
        degraded = target.at[:, number].set(pred[:, number])
        return jnp.linalg.norm(_vertices(degraded, model) - truth, axis=(-1, -2))

    weights = lax.map(weight, jnp.arange(pred.shape[1])).T
    return _weighted(weights.at[:, 11].set(0.0), pred, target, squared_weights)


def fwpdc(
    pred: Float[Array, "B P"], target: Float[Array, "B P"], model: MorphableModel, *, squared_weights: bool = True
) -> Float[Array, " B"]:
    """`wpdc` with one reconstruction instead of P, Algorithm 2 of Guo et al., ECCV 2020.

    S is of the true α and f the true scale, which is what makes both equal. The algorithm's √(N/3) counts coordinates:
    with V vertices it is √V.

    Args:
        pred: z-scored parameters.
        target: ground truth, likewise; its T is a similarity.
        model: with the parameters' mean and standard deviation.
        squared_weights: see `wpdc`.
    """
    difference = jnp.abs(pred - target) * model.param_std[None]
    transform, identity, expression = parameters.split(parameters.undo_z_score(target, model), model)
    coefficients = jnp.concatenate([identity, expression], axis=-1)
    basis = jnp.concatenate([model.identity, model.expression], axis=-1)
    lengths = jnp.linalg.norm(basis, axis=(0, 1))
    # Rows of S̄ + Aα, of length V each, by their norms alone: no vertex has to be kept.
    shape = model.mean.T[None] + jnp.einsum("bm,vcm->bcv", coefficients, basis)
    extent = jnp.linalg.norm(shape, axis=-1)
    whole = jnp.full((len(pred), 1), math.sqrt(len(model.mean)), extent.dtype)
    columns = jnp.concatenate([extent, whole], axis=-1)
    of_transform = difference[:, :12].reshape(-1, 3, 4) * columns[:, None]
    of_transform = of_transform.at[:, 2, 3].set(0.0)
    scale = jnp.linalg.norm(transform[:, 0, :3], axis=-1, keepdims=True)
    weights = jnp.concatenate([of_transform.reshape(-1, 12), scale * difference[:, 12:] * lengths[None]], axis=-1)
    return _weighted(weights, pred, target, squared_weights)


def _vertices(params: Float[Array, "B P"], model: MorphableModel) -> Float[Array, "B V 3"]:
    """Vertices of z-scored parameters; the z of the translation is 0."""
    return parameters.vertices(parameters.undo_z_score(params, model).at[:, 11].set(0.0), model)


def _weighted(weights, pred, target, squared_weights: bool):
    weights = weights / jnp.maximum(weights.max(axis=-1, keepdims=True), jnp.finfo(weights.dtype).tiny)
    weights = lax.stop_gradient(weights)
    return jnp.sum((jnp.square(weights) if squared_weights else weights) * jnp.square(pred - target), axis=-1)


# (z-scored prediction, truth, model with their statistics, rng) -> (), one loss of the batch
Cost = Callable[[Array, Array, MorphableModel, Array], Array]


def make_costs(config: Config, model: MorphableModel, name: str | None = None) -> tuple[Cost, ...]:
    """The losses of `config.loss`, or of another `name` with its settings.

    One, or those of the two phases or of the two branches (fWPDC first).

    Over all vertices of the model or, with `loss.vertices` > 0, over its landmarks and so many random others of each
    step. The VDC is divided by the number of vertices.

    Raises:
        ValueError: if the model has fewer vertices.
    """
    settings, name = config.loss, name or config.loss.name
    if settings.vertices > len(model.mean):
        raise ValueError(
            f"loss.vertices = {settings.vertices} is more than the {len(model.mean)} of the face model; 0 takes all."
        )
    options = {"squared_weights": settings.squared_weights}
    of_batch = {
        "fwpdc": functools.partial(_mean, functools.partial(fwpdc, **options)),
        "wpdc": functools.partial(_mean, functools.partial(wpdc, **options)),
        "vdc": _vertex_mean,
    }
    of_batch["vanilla_joint"] = functools.partial(_vanilla_joint, settings.beta, of_batch["fwpdc"], of_batch["vdc"])
    names = (name,) if name in of_batch else ("fwpdc", "vdc")
    return tuple(functools.partial(_on_vertices, of_batch[one], settings.vertices) for one in names)


def _on_vertices(loss, count: int, pred: Array, target: Array, model: MorphableModel, rng: Array) -> Array:
    """The loss on the model's landmarks and `count` random vertices; on all vertices where `count` is 0."""
    if count:
        others = jax.random.choice(rng, len(model.mean), (count,), replace=False)
        model = select_vertices(model, jnp.concatenate([model.landmarks, others]))
    return loss(pred, target, model)


def _mean(loss, pred: Array, target: Array, model: MorphableModel) -> Array:
    return loss(pred, target, model).mean()


def _vertex_mean(pred: Array, target: Array, model: MorphableModel) -> Array:
    """The batch's mean VDC of one vertex."""
    return vdc(pred, target, model).mean() / len(model.mean)


def _vanilla_joint(beta: float, first, second, pred: Array, target: Array, model: MorphableModel) -> Array:
    """β L_fwpdc + (1 − β) |L_fwpdc|/|L_vdc| L_vdc, Section 2.2."""
    weighted, distance = first(pred, target, model), second(pred, target, model)
    ratio = lax.stop_gradient(jnp.abs(weighted) / jnp.maximum(jnp.abs(distance), 1e-12))
    return beta * weighted + (1 - beta) * ratio * distance

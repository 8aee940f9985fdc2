"""Training objectives of networks with heatmaps: losses on the landmarks or on the heatmaps."""

import functools
import inspect
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxlm import geometry, heatmaps, losses
from jaxlm.config import Config, Heatmap, Loss
from jaxlm.schemes import Scheme, get_scheme

WEIGHT_MAPS = {"none": None, "baseline": losses.baseline_weight, "dilated": losses.loss_map_weight}

# (heatmaps of S stages (S, B, h, w, C), batch) -> loss (); C is K or, with a boundary channel, K + 1
Objective = Callable[[Array, dict[str, Array]], Array]


def make_objective(config: Config) -> Objective:
    """Returns the objective of `config.loss`: {on: "landmarks" or "heatmaps", name, options of that loss}.

    On landmarks, the loss compares the soft-argmax of every stage with the ground truth, in units of the image's side,
    and averages over the stages. On heatmaps, it compares every stage with the target heatmaps of `config.heatmap` and
    adds up the stages. Landmarks that do not exist or lie outside the image are ignored. The target boundary consists
    of the segments whose ends both exist; without such a segment the boundary is ignored.

    Raises:
        ValueError: if a setting of `config.loss` or `config.heatmap` is missing, unknown or out of range.
    """
    scheme, settings = get_scheme(config.scheme), config["loss"]
    if settings.on == "landmarks":
        return functools.partial(_landmark_objective, make_loss(settings, losses.LANDMARK_LOSSES), scheme)
    if settings.on != "heatmaps":
        raise ValueError(f"loss.on must be landmarks or heatmaps, got {settings.on!r}.")
    if "heatmap" not in config:
        raise ValueError("loss.on = heatmaps needs the block config.heatmap; see configs/awing_wflw.py.")
    heatmap: Heatmap = config["heatmap"]
    if not (heatmap.sigma > 0 and heatmap.boundary_sigma > 0):
        raise ValueError("heatmap.sigma and heatmap.boundary_sigma must be positive.")
    elementwise = make_loss(settings, losses.HEATMAP_LOSSES)
    if heatmap.weight_map not in WEIGHT_MAPS:
        raise ValueError(f"There is no weight map {heatmap.weight_map!r}; choose one of {', '.join(WEIGHT_MAPS)}.")
    return functools.partial(_heatmap_objective, elementwise, scheme, heatmap)


def make_loss(settings: Loss, choices: dict[str, Callable[..., Array]]) -> Callable[..., Array]:
    """Returns the elementwise loss (pred, target, mask) that the settings name.

    Only losses with statistics over the batch use the mask.

    Args:
        settings: `config.loss`: {on, name, options}.
        choices: name -> loss.

    Raises:
        ValueError: if the name is not among the choices, or an option is unknown or not positive.
    """
    if settings.name not in choices:
        raise ValueError(f"There is no loss {settings.name!r} on {settings.on}; choose one of {', '.join(choices)}.")
    loss, options = choices[settings.name], dict(settings.options)
    known = list(inspect.signature(loss).parameters)[2:]
    masked = "mask" in known
    known = [name for name in known if name != "mask"]
    if set(options) - set(known):
        unknown = ", ".join(sorted(set(options) - set(known)))
        raise ValueError(
            f"loss.options has {unknown}; {settings.name} takes {', '.join(known) or 'none'}. "
            "Set all options at once, as in --config.loss.options={} or \"{'omega': 10.0}\"."
        )
    if any(value <= 0 for value in options.values()):
        raise ValueError(f"loss.options must be positive, got {options}.")
    return lambda pred, target, mask: loss(pred, target, *((mask,) if masked else ()), **options)


def _landmark_objective(elementwise, scheme: Scheme, stages: Array, batch: dict[str, Array]) -> Array:
    size = batch["image"].shape[1]
    target = batch["landmarks"]
    inside = heatmaps.is_inside(target, (size, size))
    cells = heatmaps.soft_argmax(stages[..., : scheme.num_landmarks])
    landmarks = geometry.rescale_points(cells, size / stages.shape[-3])
    mask = batch["mask"] & inside
    both = jnp.broadcast_to(mask[..., None], target.shape)
    values = jnp.stack([elementwise(stage / size, target / size, both).sum(axis=-1) for stage in landmarks])
    return losses.masked_mean(values, jnp.broadcast_to(mask, values.shape))


def _heatmap_objective(elementwise, scheme: Scheme, settings: Heatmap, stages: Array, batch: dict[str, Array]) -> Array:
    boundary = stages.shape[-1] > scheme.num_landmarks
    target, mask = heatmap_target(batch, (stages.shape[2], stages.shape[3]), scheme, settings, boundary=boundary)
    weight = WEIGHT_MAPS[settings.weight_map]
    total = jnp.zeros(())
    for heatmap in stages:
        values = elementwise(heatmap, target, None)
        if weight is not None:
            values = values * weight(target, weight=settings.weight)
        total = total + losses.masked_mean(values.mean(axis=(1, 2)), mask)
    return total


def heatmap_target(
    batch: dict[str, Array], shape: tuple[int, int], scheme: Scheme, settings: Heatmap, *, boundary: bool
) -> tuple[Float[Array, "B h w C"], Bool[Array, "B C"]]:
    """Target heatmaps with peak 1, and a mask that is true for those that count in the loss.

    Args:
        batch: dict with image, landmarks and mask.
        shape: (h, w) of the heatmaps.
        scheme: landmark scheme.
        settings: `config.heatmap`: sigma and boundary_sigma in cells, and the radius of truncation in cells, −1 for no
            truncation.
        boundary: whether the last channel is the boundary.

    Returns:
        Heatmaps of C = K channels, or K + 1 with the boundary. The mask is false for landmarks that do not exist or lie
        outside the image, and for a boundary without a segment.
    """
    landmarks = geometry.rescale_points(batch["landmarks"], shape[0] / batch["image"].shape[1])
    radius = settings.radius if settings.radius >= 0 else None
    target = heatmaps.encode_gaussian(landmarks, shape, settings.sigma, radius=radius)
    mask = batch["mask"] & heatmaps.is_inside(landmarks, shape)
    if boundary:
        segments, exists = scheme.segments, batch["mask"]
        lines = heatmaps.encode_boundary(landmarks, segments, shape, settings.boundary_sigma, mask=exists)
        target = jnp.concatenate([target, lines], axis=-1)
        mask = jnp.concatenate([mask, exists[:, segments].all(axis=-1).any(axis=-1, keepdims=True)], axis=-1)
    return target, mask

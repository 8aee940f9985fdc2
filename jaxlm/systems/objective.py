"""What a network with heatmaps is trained towards: its landmarks, or the heatmaps themselves."""

import functools
import inspect
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxlm import geometry, heatmaps, losses
from jaxlm.config import Config
from jaxlm.schemes import Scheme, get_scheme

WEIGHT_MAPS = {"none": None, "baseline": losses.baseline_weight, "dilated": losses.loss_map_weight}

# (heatmaps of S stages (S, B, h, w, C), batch) -> loss (); C is K or, with a boundary channel, K + 1
Objective = Callable[[Array, dict[str, Array]], Array]


def make_objective(config: Config) -> Objective:
    """The loss of `config.loss`: {on: "landmarks" or "heatmaps", name, options of that loss}.

    On landmarks, the soft-argmax of every stage is compared with the ground truth in units of the image's side, and
    the mean over the stages is taken. On heatmaps, every stage is compared with the targets of `config.heatmap`, and
    the stages add up. Landmarks that do not exist or lie outside the image are left out; the boundary is made of the
    segments whose ends exist, and left out where there is none.

    Raises:
        ValueError: for a loss, an option of it, or a weight map that does not exist.
    """
    scheme = get_scheme(config.scheme)
    if config.loss.on == "landmarks":
        return functools.partial(_landmark_objective, make_loss(config.loss, losses.LANDMARK_LOSSES), scheme)
    if config.loss.on != "heatmaps":
        raise ValueError(f"loss.on must be landmarks or heatmaps, got {config.loss.on!r}.")
    if "heatmap" not in config:
        raise ValueError("loss.on = heatmaps needs the block config.heatmap; see configs/awing_wflw.py.")
    if not (config.heatmap.sigma > 0 and config.heatmap.boundary_sigma > 0):
        raise ValueError("heatmap.sigma and heatmap.boundary_sigma must be positive.")
    elementwise = make_loss(config.loss, losses.HEATMAP_LOSSES)
    if config.heatmap.weight_map not in WEIGHT_MAPS:
        raise ValueError(
            f"There is no weight map {config.heatmap.weight_map!r}; choose one of {', '.join(WEIGHT_MAPS)}."
        )
    return functools.partial(_heatmap_objective, elementwise, scheme, config.heatmap)


def make_loss(settings: Config, choices: dict[str, Callable[..., Array]]) -> Callable[..., Array]:
    """Elementwise loss (pred, target, mask) of {name, options}; the mask is for those that look at the whole batch.

    Raises:
        ValueError: for a name that is not among the choices, or an option that the loss does not have.
    """
    if settings.name not in choices:
        raise ValueError(f"There is no loss {settings.name!r} on {settings.on}; choose one of {', '.join(choices)}.")
    loss, options = choices[settings.name], settings.options.to_dict()
    known = list(inspect.signature(loss).parameters)[2:]
    masked = "mask" in known
    known = [name for name in known if name != "mask"]
    if set(options) - set(known):
        unknown = ", ".join(sorted(set(options) - set(known)))
        raise ValueError(
            f"loss.options has {unknown}; {settings.name} takes {', '.join(known) or 'none'}: "
            "set them together, as in --config.loss.options={} or \"{'omega': 10.0}\"."
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


def _heatmap_objective(elementwise, scheme: Scheme, settings: Config, stages: Array, batch: dict[str, Array]) -> Array:
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
    batch: dict[str, Array], shape: tuple[int, int], scheme: Scheme, settings: Config, *, boundary: bool
) -> tuple[Float[Array, "B h w C"], Bool[Array, "B C"]]:
    """Heatmaps to regress, with height 1, and which of them exist.

    Args:
        batch: image, landmarks and mask.
        shape: (h, w) of the heatmaps.
        scheme: of the landmarks.
        settings: sigma in cells, radius of truncation in cells or −1 for none, boundary_sigma in cells.
        boundary: whether the boundary comes as the last channel.
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

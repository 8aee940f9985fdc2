"""Synthesis of short videos from stills, Section 2.4 of Guo et al., ECCV 2020.

Frame j is x'_j = (M ∘ P)(x_j) with x_j = (T ∘ F)(x_{j−1}). F is face profiling: the image is the texture of a mesh that
has the depth of the fitted face and turns about the vertical and the horizontal axis. The mesh is a grid that covers
the whole image and a margin around it. The background turns with the face, by less the farther it is from the face, so
that no pixel is left empty. T is a similarity, P noise, M motion blur. The motions F and T of all frames so far are
composed and the pixels are sampled once, so that repeated sampling does not blur the frames. The parameters of every
frame are exact. The synthesis is jitted and runs on the device of the training step.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlm.face3d import mesh_files, parameters, rasterizer
from jaxlm.face3d.morphable import MorphableModel, landmark_model
from jaxlm.systems.tddfa.settings import Config, Synthesis

MODES = ("none", "video", "random")
_CELLS = 24  # grid cells across the image
_MARGIN = 0.25  # how far the grid reaches beyond the image, in image sides
_SMOOTH, _FAR = 0.1, 0.4  # σ in image sides of the gaussians that extend the depth near the face and far from it
_REST = 0.15  # σ in image sides of the gaussian by which the motion of the background fades


class Motion(NamedTuple):
    """Motion of a face from the still to one frame.

    Attributes:
        yaw: () rotation about the vertical axis in degrees.
        pitch: () rotation about the horizontal axis in degrees.
        roll: () rotation in the image plane in degrees.
        scale: () scale factor about the image's centre.
        shift: (2,) translation to the right and up in pixels.
    """

    yaw: Array
    pitch: Array
    roll: Array
    scale: Array
    shift: Array


def make_synthesis(config: Config, model: MorphableModel) -> Callable[[dict[str, Array], Array], dict[str, Array]]:
    """Returns (batch of B stills, rng) -> batch of B·n frames, with the settings of `config.synthesis`.

    The n frames of a still are consecutive. Images become float32; the mode "none" changes nothing else. With the mode
    "random" the frames do not form a video: each moves by itself, by up to as much as the last frame of a video.

    Raises:
        ValueError: if `config.synthesis` has an unknown mode or a number out of range.
    """
    settings, size = config.synthesis, config.image_size
    if settings.mode not in MODES:
        raise ValueError(f"synthesis.mode must be one of {', '.join(MODES)}, got {settings.mode!r}.")
    ranges = ("yaw", "pitch", "roll", "scale", "translation", "noise")
    if settings.frames < 1 or not 0 <= settings.blur <= 1 or min(settings[name] for name in ranges) < 0:
        raise ValueError(
            "synthesis.frames must be at least 1, synthesis.blur must lie in [0, 1], and the other numbers of "
            "config.synthesis must not be negative."
        )
    if settings.mode == "none" or settings.frames == 1:
        return lambda batch, rng: {**batch, "image": batch["image"].astype(jnp.float32)}
    profile = make_profiling(model, size)
    sparse = landmark_model(model)

    def video_of(still: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        image, params, key = still
        motion_key, noise_key, blur_key = jax.random.split(key, 3)
        _, angles = parameters.pose(params)
        motion = sample_motion(motion_key, settings, size, angles[1])
        frames, moved = profile(image, params, motion)
        changed = _blur(_noise(frames, noise_key, settings.noise), blur_key, settings.blur)
        scale = jnp.concatenate([jnp.ones(1), motion.scale])
        return (
            jnp.concatenate([image[None], jnp.clip(changed, 0.0, 255.0)]),
            jnp.concatenate([params[None], moved]),
            scale,
        )

    def prepare(batch: dict[str, Array], rng: Array) -> dict[str, Array]:
        keys = jax.random.split(rng, len(batch["image"]))
        stills = (batch["image"].astype(jnp.float32), batch["params"], keys)
        images, params, scale = jax.lax.map(video_of, stills, batch_size=8)
        many = {key: jnp.repeat(value, settings.frames, axis=0) for key, value in batch.items()}
        params = params.reshape(-1, params.shape[-1])
        points = parameters.crop_pixels(parameters.vertices(params, sparse)[..., :2], size)
        return {
            **many,
            "image": images.reshape(-1, size, size, 3),
            "params": params,
            "landmarks": points,
            "mask": jnp.ones_like(many["mask"]),
            "normalizer": many["normalizer"] * scale.ravel(),
        }

    return prepare


def sample_motion(key: Array, settings: Synthesis, size: int, yaw: Float[Array, ""]) -> Motion:
    """Motion from the still to each of the n − 1 later frames, leaves (n − 1, …).

    In a video every still gets one velocity, and every step differs from it by up to a fifth. A face with a yaw beyond
    ±20° turns further to the same side, as in face profiling, because the image does not show its other side.

    Args:
        key: random key.
        settings: `config.synthesis`.
        size: side of the image in pixels.
        yaw: yaw of the face in the still in degrees.
    """
    count = settings.frames - 1
    largest = jnp.array(
        [settings.yaw, settings.pitch, settings.roll, settings.scale, *[settings.translation * size] * 2]
    )
    first, second = jax.random.split(key)
    if settings.mode == "random":
        total = count * largest[None] * jax.random.uniform(first, (count, 6), minval=-1.0)
        turned = jnp.where(jnp.abs(yaw) > 20.0, jnp.sign(yaw) * jnp.abs(total[:, 0]), total[:, 0])
    else:
        velocity = jax.random.uniform(first, (6,), minval=-1.0)
        velocity = velocity.at[0].set(jnp.where(jnp.abs(yaw) > 20.0, jnp.sign(yaw) * jnp.abs(velocity[0]), velocity[0]))
        steps = velocity[None] * (1.0 + 0.2 * jax.random.uniform(second, (count, 6), minval=-1.0))
        total = jnp.cumsum(largest[None] * steps, axis=0)
        turned = total[:, 0]
    turned = jnp.clip(turned, jnp.minimum(-90.0 - yaw, 0.0), jnp.maximum(90.0 - yaw, 0.0))  # at most a profile
    return Motion(turned, total[:, 1], total[:, 2], jnp.exp(total[:, 3]), total[:, 4:])


def make_profiling(
    model: MorphableModel, size: int
) -> Callable[[Array, Array, Motion], tuple[Float[Array, "n S S 3"], Float[Array, "n P"]]]:
    """Returns face profiling: (image, parameters, motion) -> images after each motion, and their parameters.

    The function takes an image (S, S, 3), its parameters (P,) in the crop's frame, and a motion with leaves (n, …).

    Args:
        model: morphable model of the parameters, with triangles. A model of the landmarks alone gives a coarse depth.
        size: S, side of the image in pixels.
    """
    grid, faces = _grid(size)
    order, groups = mesh_files.draw_order(model, size)
    triangles = model.triangles[jnp.asarray(order)]
    near, far, rest = (_blur_matrix(grid, share * size) for share in (_SMOOTH, _FAR, _REST))
    spacing = float(grid[1] - grid[0])
    window = ((len(faces), math.ceil(2.0 * spacing) + 2),)

    def depth_and_weight(params: Array) -> tuple[Array, Array, Array]:
        """Depth (G, G) at the grid's corners, weight (G, G) by which each turns, and the face's centre (3,)."""
        vertices = parameters.vertices(params, model)
        pixels = parameters.crop_pixels(vertices, size)
        seen = rasterizer.rasterize(pixels, triangles, shape=(size, size), patches=groups)
        at = jnp.clip(jnp.round(jnp.asarray(grid)), 0, size - 1).astype(jnp.int32)
        inside = jnp.asarray((grid >= -0.5) & (grid <= size - 0.5))
        covered = (seen.triangle[at][:, at] >= 0) & inside[:, None] & inside[None]
        mask = covered.astype(jnp.float32)
        depth = jnp.where(covered, seen.depth[at][:, at], 0.0)
        weights = near @ mask @ near.T + 1e-3 * far @ mask @ far.T
        beyond = (near @ depth @ near.T + 1e-3 * far @ depth @ far.T) / jnp.maximum(weights, 1e-12)
        filled = jnp.where(covered, depth, beyond)
        padded = jnp.pad(filled, 1, mode="edge")  # steep steps would tear the mesh
        side = len(grid)
        smooth = jnp.stack([padded[i : i + side, j : j + side] for i in range(3) for j in range(3)]).mean(axis=0)
        turning = jnp.clip(2.0 * rest @ mask @ rest.T, 0.0, 1.0)
        return smooth, jnp.where(covered, 1.0, turning), vertices[model.landmarks].mean(axis=0)

    def profile(image: Array, params: Array, motion: Motion):
        depth, weight, pivot = depth_and_weight(params)
        columns, rows = jnp.meshgrid(jnp.asarray(grid), jnp.asarray(grid))
        corners = jnp.stack([columns + 1.0, size - rows, depth], axis=-1).reshape(-1, 3)
        texture = jnp.stack([columns, rows], axis=-1).reshape(-1, 2)
        uv = (texture + 0.5) / size
        share = weight.reshape(-1, 1)

        def one(motion: Motion):
            turn = parameters.rotation_of_angles(motion.pitch, motion.yaw, jnp.zeros(()))
            plane = _similarity(motion, size)
            turned = (corners - pivot[None]) @ turn.T + pivot[None]
            moved = share * turned + (1.0 - share) * corners
            flat = moved[:, :2] @ plane[:, :2].T + plane[None, :, 2]
            pixels = parameters.crop_pixels(jnp.concatenate([flat, moved[:, 2:]], axis=1), size)
            seen = rasterizer.rasterize(pixels, jnp.asarray(faces), shape=(size, size), patches=window)
            where = rasterizer.interpolate(seen, jnp.asarray(faces), uv)
            # Pixels that the mesh does not cover show the background, moved by the similarity alone.
            back = _pull_back(plane, size)
            where = jnp.where((seen.triangle >= 0)[..., None], where, back)
            return rasterizer.sample_texture(image, where), _turned_params(params, turn, pivot, plane)

        return jax.vmap(one)(motion)

    return profile


def _turned_params(params: Array, turn: Array, pivot: Array, plane: Array) -> Array:
    """Parameters (P,) after a rotation `turn` about `pivot` and the similarity `plane` of the image plane."""
    transform = params[:12].reshape(3, 4)
    shift = turn @ (transform[:, 3] - pivot) + pivot
    turned = jnp.concatenate([turn @ transform[:, :3], shift[:, None]], axis=1)
    moved = parameters.move(jnp.concatenate([turned.ravel(), params[12:]]), plane)
    return moved.at[11].set(params[11])  # the image does not show how far away the face is


def _similarity(motion: Motion, size: int) -> Float[Array, "2 3"]:
    """Similarity of Eq. (8) about the image's centre, in the crop's frame; roll turns clockwise on the screen."""
    angle = jnp.deg2rad(motion.roll)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    linear = motion.scale * jnp.stack([jnp.stack([cos, sin]), jnp.stack([-sin, cos])])
    center = jnp.full(2, (size + 1) / 2)
    return jnp.concatenate([linear, (center + motion.shift - linear @ center)[:, None]], axis=1)


def _pull_back(plane: Array, size: int) -> Float[Array, "S S 2"]:
    """Texture coordinates of the point that the similarity `plane` moves to each pixel."""
    columns, rows = jnp.meshgrid(jnp.arange(size, dtype=jnp.float32), jnp.arange(size, dtype=jnp.float32))
    points = jnp.stack([columns + 1.0, size - rows], axis=-1)
    before = (points - plane[:, 2].reshape(1, 1, 2)) @ jnp.linalg.inv(plane[:, :2]).T
    return (parameters.crop_pixels(before, size) + 0.5) / size


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (G,) of the grid along both axes, and triangles (2 (G − 1)², 3) of its corners, numbered by rows."""
    cells = round(_CELLS * (1 + 2 * _MARGIN))
    margin = _MARGIN * size
    grid = np.linspace(-0.5 - margin, size - 0.5 + margin, cells + 1).astype(np.float32)
    index = np.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    return grid, np.stack([np.stack([a, c, b], -1), np.stack([b, c, d], -1)]).reshape(-1, 3).astype(np.int32)


def _blur_matrix(grid: np.ndarray, sigma: float) -> np.ndarray:
    """(G, G) gaussian weights between the grid's coordinates, rows summing to 1."""
    weights = np.exp(-0.5 * np.square((grid[:, None] - grid[None]) / sigma))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _noise(frames: Array, key: Array, largest: float) -> Array:
    """Adds gaussian noise (P); σ is drawn once for a video, uniformly up to `largest` grey levels."""
    strength, values = jax.random.split(key)
    return frames + largest * jax.random.uniform(strength) * jax.random.normal(values, frames.shape)


def _blur(frames: Array, key: Array, probability: float) -> Array:
    """Blurs a video (M) with the given probability, along a line of up to 5 pixels, in one direction for all frames."""
    chance, direction, extent = jax.random.uniform(key, (3,))
    angle, reach = jnp.pi * direction, 2.0 * extent
    offsets = jnp.arange(-2.0, 3.0)
    across, down = offsets[None, :], offsets[:, None]
    along = jnp.abs(across * jnp.cos(angle) + down * jnp.sin(angle))
    aside = jnp.abs(across * jnp.sin(angle) - down * jnp.cos(angle))
    kernel = jnp.clip(1.0 - aside, 0.0, 1.0) * jnp.clip(reach + 0.5 - along, 0.0, 1.0)
    kernel = kernel / kernel.sum()
    height, width = frames.shape[1:3]
    padded = jnp.pad(frames, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    blurred = sum(padded[:, i : i + height, j : j + width] * kernel[i, j] for i in range(5) for j in range(5))
    return jnp.where(chance < probability, blurred, frames)

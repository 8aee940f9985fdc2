"""A jitted, vectorised z-buffer that rasterises triangle meshes by scatters, on any device."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int


class Fragments(NamedTuple):
    """The nearest triangle at every pixel of an image.

    Attributes:
        triangle: (H, W) index of the nearest triangle; −1 if there is none.
        barycentric: (H, W, 3) weights of its corners at the pixel's centre; 0 if there is none.
        depth: (H, W) interpolated depth, larger is nearer; −inf if there is no triangle.
    """

    triangle: Int[Array, "H W"]
    barycentric: Float[Array, "H W 3"]
    depth: Float[Array, "H W"]


@functools.partial(jax.jit, static_argnames=("shape", "patches"))
def rasterize(
    vertices: Float[Array, "V 3"],
    triangles: Int[Array, "F 3"],
    *,
    shape: tuple[int, int],
    patches: tuple[tuple[int, int], ...],
) -> Fragments:
    """Nearest triangle at every pixel centre.

    Each triangle tests the pixels of a square window at the upper left corner of its bounding box. The pixels inside
    the triangle are written by a scatter that keeps the largest integer. An integer holds the depth in its upper bits
    and the triangle's index in its lower bits, so depth is resolved to 2^(32 − log₂ F) levels, at most 2^24. The cost
    is the windows' area, so triangles are drawn in groups of similar size.

    Args:
        vertices: (V, 3) x, y in pixels (y down) and depth (larger is nearer).
        triangles: (F, 3) vertex indices; both orientations are drawn.
        shape: (H, W) of the image.
        patches: (number of triangles, side of their window in pixels) of consecutive groups. A window must be at least
            as large as the largest triangle of its group plus one pixel; triangles are cut off at their window.

    Raises:
        ValueError: if the groups do not add up to F triangles.
    """
    height, width = shape
    if sum(count for count, _ in patches) != triangles.shape[0]:
        raise ValueError(f"The groups {patches} do not add up to {triangles.shape[0]} triangles.")
    corners = vertices[triangles]
    nearest, farthest = vertices[:, 2].max(), vertices[:, 2].min()
    index_bits = math.ceil(math.log2(triangles.shape[0] + 1))
    levels = min(2 ** (32 - index_bits) - 2, 2**24)  # float32 resolves no more
    # Depth as a level in [0, levels], so that the windows need no more than to round it.
    unit = jnp.clip((corners[..., 2] - farthest) / jnp.maximum(nearest - farthest, 1e-6), 0.0, 1.0)
    corners_of_levels = jnp.concatenate([corners[..., :2], levels * unit[..., None]], axis=-1)
    buffer = jnp.zeros(height * width, jnp.uint32)
    first = 0
    for count, patch in patches:
        if count == 0:
            continue
        edges = _edges(corners_of_levels[first : first + count])
        inside, pixels, level = _window_tests(edges, patch, shape)
        level = jnp.clip(level, 0.0, levels).astype(jnp.int32).astype(jnp.uint32) + 1  # to int32 is faster
        index = jnp.arange(first, first + count, dtype=jnp.uint32).reshape(1, 1, -1)
        packed = jnp.where(inside, (level << index_bits) | index, jnp.uint32(0))  # zero changes no pixel
        buffer = buffer.at[pixels.ravel()].max(packed.ravel(), mode="promise_in_bounds")
        first += count
    buffer = buffer.reshape(height, width)

    seen = buffer > 0
    triangle = jnp.where(seen, buffer & jnp.uint32(2**index_bits - 1), 0).astype(jnp.int32)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(width), jnp.arange(height), indexing="xy"), axis=-1)
    chosen = corners[triangle]
    weights = jnp.where(seen[..., None], _barycentric(chosen, grid.astype(vertices.dtype)), 0.0)
    depth = jnp.where(seen, jnp.sum(weights * chosen[..., 2], axis=-1), -jnp.inf)
    return Fragments(jnp.where(seen, triangle, -1), weights, depth)


def _edges(corners: Float[Array, "F 3 3"]) -> Float[Array, "14 F"]:
    """What `_window_tests` needs of triangles.

    Three barycentric weights at the first pixel of the window, their changes along rows and along columns, the third
    coordinate of the corners, and column and row of that pixel.
    """
    origin = jnp.ceil(corners[..., :2].min(axis=1))
    start = _barycentric(corners, origin)  # −1 for a triangle without area
    right, below = _barycentric_gradient(corners)
    return jnp.concatenate([start, right, below, corners[..., 2], origin], axis=1).T


def _window_tests(edges: Float[Array, "14 F"], patch: int, shape: tuple[int, int]):
    """Of each triangle's window (rows, columns, F): pixels inside the triangle, their number, third coordinate there.

    The barycentric weights and the third coordinate are linear along rows and columns, so one pass computes them from
    the values at the window's corner. Triangles are the last axis, along which a CPU has vector instructions.
    """
    height, width = shape
    column, row = jnp.arange(patch).reshape(1, -1, 1), jnp.arange(patch).reshape(-1, 1, 1)
    # Without the barrier a CPU would compute the edges again for every pixel.
    start, right, below, third, (x, y) = jnp.split(lax.optimization_barrier(edges)[:, None, None], (3, 6, 9, 12))
    weights = [start[i] + column * right[i] + row * below[i] for i in range(3)]
    inside = (weights[0] >= -1e-5) & (weights[1] >= -1e-5) & (weights[2] >= -1e-5)
    x, y = x.astype(jnp.int32) + column, y.astype(jnp.int32) + row
    inside &= (x >= 0) & (x < width) & (y >= 0) & (y < height)
    pixels = jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1)
    return inside, pixels, weights[0] * third[0] + weights[1] * third[1] + weights[2] * third[2]


def interpolate(
    fragments: Fragments, triangles: Int[Array, "F 3"], attributes: Float[Array, "V C"]
) -> Float[Array, "H W C"]:
    """Vertex attributes interpolated at every pixel; 0 where there is no triangle."""
    corners = attributes[triangles[jnp.maximum(fragments.triangle, 0)]]
    return jnp.einsum("hwk,hwkc->hwc", fragments.barycentric, corners)


def vertex_normals(vertices: Float[Array, "V 3"], triangles: Int[Array, "F 3"]) -> Float[Array, "V 3"]:
    """Unit normals, the area-weighted means of the triangles around each vertex."""
    corners = vertices[triangles]
    faces = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    summed = jnp.zeros_like(vertices).at[triangles.reshape(-1)].add(jnp.repeat(faces, 3, axis=0))
    return summed / jnp.maximum(jnp.linalg.norm(summed, axis=-1, keepdims=True), 1e-9)


def sample_texture(texture: Float[Array, "h w C"], uv: Float[Array, "*B 2"]) -> Float[Array, "*B C"]:
    """Bilinear samples at uv in [0, 1] (column, row), clamped at the edges."""
    height, width = texture.shape[:2]
    x = jnp.clip(uv[..., 0] * width - 0.5, 0.0, width - 1.0)
    y = jnp.clip(uv[..., 1] * height - 0.5, 0.0, height - 1.0)
    left, top = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    right, bottom = jnp.minimum(left + 1, width - 1), jnp.minimum(top + 1, height - 1)
    across, down = (x - left)[..., None], (y - top)[..., None]
    upper = texture[top, left] * (1 - across) + texture[top, right] * across
    lower = texture[bottom, left] * (1 - across) + texture[bottom, right] * across
    return upper * (1 - down) + lower * down


def _barycentric(corners: Float[Array, "*#B 3 3"], points: Float[Array, "*#B 2"]) -> Float[Array, "*B 3"]:
    """Barycentric weights of the corners (…, 3 corners, xyz) at the points; −1 for a triangle without area."""
    a, b, c = (corners[..., i, :2] for i in range(3))

    def cross(u, v):
        return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]

    area = cross(b - a, c - a)
    safe = jnp.where(jnp.abs(area) > 1e-9, area, 1.0)
    second = cross(points - a, c - a) / safe
    third = cross(b - a, points - a) / safe
    weights = jnp.stack([1.0 - second - third, second, third], axis=-1)
    return jnp.where((jnp.abs(area) > 1e-9)[..., None], weights, -1.0)


def _barycentric_gradient(corners: Float[Array, "F 3 3"]) -> tuple[Float[Array, "F 3"], Float[Array, "F 3"]]:
    """Changes of the weights of `_barycentric` from pixel to pixel along x and along y; 0 without area."""
    (bx, by), (cx, cy) = ((corners[:, i, :2] - corners[:, 0, :2]).T for i in (1, 2))
    area = bx * cy - by * cx
    inverse = jnp.where(jnp.abs(area) > 1e-9, 1.0 / jnp.where(jnp.abs(area) > 1e-9, area, 1.0), 0.0)
    along_x = jnp.stack([by - cy, cy, -by], axis=-1) * inverse[:, None]
    along_y = jnp.stack([cx - bx, -cx, bx], axis=-1) * inverse[:, None]
    return along_x, along_y

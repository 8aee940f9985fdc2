"""Drawings of a fitted face: its mesh over the picture, depth, PNCC, texture, and the axes of its pose."""

import math
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlm import geometry
from jaxlm.face3d import mesh_files, parameters, rasterizer
from jaxlm.face3d.morphable import MorphableModel
from jaxlm.support.pictures import warp

_SIDE = 320  # side in pixels of the square in which a face is drawn, whatever its size in the picture
_ROOM = 2.2  # side of that square over that of the landmarks' box, so that forehead and neck fit in
_SKIN = np.array([0.93, 0.87, 0.82])


class Views(NamedTuple):
    """Drawings of one face, of the size of its picture.

    Attributes:
        mesh: (H, W, 3) uint8, the shaded mesh over the picture.
        depth: (H, W) uint8, nearer is brighter; 0 outside the face.
        pncc: (H, W, 3) uint8, projected normalised coordinate code (Zhu et al., CVPR 2016): the mean face's coordinates
            as colours; black outside the face.
    """

    mesh: np.ndarray
    depth: np.ndarray
    pncc: np.ndarray


class FaceRenderer:
    """Draws faces of one morphable model.

    Args:
        model: the model whose triangles are drawn.
    """

    def __init__(self, model: MorphableModel):
        self.model = model
        order, self._groups = mesh_files.draw_order(model, _SIDE / _ROOM)
        self.triangles = jnp.asarray(np.asarray(model.triangles)[order])
        low, high = model.mean.min(axis=0), model.mean.max(axis=0)
        self._code = (model.mean - low[None]) / (high - low)[None]
        self._draw = jax.jit(self._draw_canvas)
        self._unroll = jax.jit(self._unroll_texture, static_argnums=2)

    def views(self, image: np.ndarray, params: np.ndarray) -> Views:
        """Draws one face of a picture (H, W, 3) uint8, given its parameters (P,) in the picture's frame."""
        transform = self._canvas(params)
        drawn = jax.device_get(self._draw(jnp.asarray(parameters.to_crop(params, transform, _SIDE), jnp.float32)))
        shade, depth, code, alpha = (self._paste(np.asarray(layer), transform, image.shape) for layer in drawn)
        alpha = 0.75 * alpha[..., None]
        blended = image * (1 - alpha) + alpha * 255 * shade[..., None] * _SKIN
        rounded = [np.clip(np.round(layer), 0, 255).astype(np.uint8) for layer in (blended, 255 * depth, 255 * code)]
        return Views(*rounded)

    def texture(self, image: np.ndarray, params: np.ndarray, side: int = 256) -> np.ndarray:
        """Texture (side, side, 3) uint8 with the face's colours; black where the surface faces away."""
        transform = self._canvas(params)
        canvas = warp(image, transform, _SIDE)
        cropped = jnp.asarray(parameters.to_crop(params, transform, _SIDE), jnp.float32)
        unrolled = self._unroll(jnp.asarray(canvas, jnp.float32), cropped, side)
        return np.clip(np.round(np.asarray(unrolled)), 0, 255).astype(np.uint8)

    def colors(self, image: np.ndarray, params: np.ndarray) -> np.ndarray:
        """Colours (V, 3) uint8 of the picture at every vertex; black outside the picture."""
        points = np.asarray(parameters.picture_pixels(vertices_of(params, self.model)), np.float32)[:, :2]
        # OpenCV takes maps of less than 32,768 rows only.
        rows = np.pad(points, ((0, -len(points) % 256), (0, 0))).reshape(-1, 256, 2)
        found = cv2.remap(image, rows[..., 0].copy(), rows[..., 1].copy(), cv2.INTER_LINEAR)
        return found.reshape(-1, 3)[: len(points)]

    def _canvas(self, params: np.ndarray) -> np.ndarray:
        points = parameters.picture_pixels(vertices_of(params, self.model))[np.asarray(self.model.landmarks), :2]
        return geometry.box_to_crop(geometry.square_box(geometry.box_of_points(points), _ROOM), _SIDE)

    def _draw_canvas(self, params: Float[Array, " P"]):
        """Shade (S, S), depth (S, S), code (S, S, 3) and coverage (S, S), all in [0, 1]."""
        vertices = parameters.vertices(params, self.model)
        pixels = parameters.crop_pixels(vertices, _SIDE)
        seen = rasterizer.rasterize(pixels, self.triangles, shape=(_SIDE, _SIDE), patches=self._groups)
        normals = rasterizer.vertex_normals(vertices, self.triangles)
        layers = rasterizer.interpolate(seen, self.triangles, jnp.concatenate([normals, self._code], axis=1))
        alpha = (seen.triangle >= 0).astype(jnp.float32)
        normal = layers[..., :3] / jnp.maximum(jnp.linalg.norm(layers[..., :3], axis=-1, keepdims=True), 1e-6)
        light = jnp.array([0.35, 0.4, 0.85])
        shade = 0.25 + 0.75 * jnp.clip(normal @ (light / jnp.linalg.norm(light)), 0.0, 1.0)
        low, high = vertices[:, 2].min(), vertices[:, 2].max()
        depth = 0.15 + 0.85 * (seen.depth - low) / jnp.maximum(high - low, 1e-6)
        return shade, jnp.where(alpha > 0, depth, 0.0), layers[..., 3:], alpha

    def _unroll_texture(self, canvas: Float[Array, "S S 3"], params: Float[Array, " P"], side: int):
        vertices = parameters.vertices(params, self.model)
        pixels = parameters.crop_pixels(vertices, _SIDE)
        normals = rasterizer.vertex_normals(vertices, self.triangles)
        # Where two parts of the surface share texture coordinates, the one in front is kept.
        flat = jnp.concatenate([self.model.uv * side - 0.5, self.model.mean[:, 2:]], axis=1)
        sides = np.ptp(np.asarray(self.model.uv)[np.asarray(self.triangles)], axis=1)
        order = np.argsort(sides.max(axis=1), kind="stable")
        order = order[sides[order, 0] < 0.5]  # the others cross the seam of the texture
        sides = sides.max(axis=1)[order] * side
        ends = [round(share * len(order)) for share in (0.8, 0.98, 1.0)]
        counts = np.diff([0, *ends])
        groups = tuple(
            (int(count), min(math.ceil(sides[end - 1]) + 1, side))
            for count, end in zip(counts, ends, strict=True)
            if count
        )
        triangles = self.triangles[jnp.asarray(order)]
        seen = rasterizer.rasterize(flat, triangles, shape=(side, side), patches=groups)
        layers = rasterizer.interpolate(
            seen, triangles, jnp.concatenate([(pixels[:, :2] + 0.5) / _SIDE, normals], axis=1)
        )
        return rasterizer.sample_texture(canvas, layers[..., :2]) * (layers[..., 4:] > 0)

    def _paste(self, layer: np.ndarray, transform: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        back = geometry.invert_affine(transform)
        return cv2.warpAffine(layer.astype(np.float32), back, (shape[1], shape[0]), flags=cv2.INTER_LINEAR)


def vertices_of(params: np.ndarray, model: MorphableModel) -> np.ndarray:
    """Vertices (V, 3) of a face, in the frame of its parameters (P,)."""
    return np.asarray(parameters.vertices(jnp.asarray(params, jnp.float32), model), np.float64)


def draw_pose(image: np.ndarray, params: np.ndarray, model: MorphableModel) -> np.ndarray:
    """Draws the axes of a face at its middle and returns the new picture.

    The red axis points to the viewer's right for a frontal face, the green one up and the blue one forwards.

    Args:
        image: (H, W, 3) uint8.
        params: (P,) parameters in the picture's frame.
        model: morphable model of the parameters.
    """
    image = image.copy()
    points = vertices_of(params, model)[np.asarray(model.landmarks)]
    middle = points.mean(axis=0)
    length = 0.6 * np.ptp(points[:, :2], axis=0).max()
    scale, _ = parameters.pose(np.asarray(params))
    rotation = params[:12].reshape(3, 4)[:, :3] / scale
    thickness = max(round(length / 45), 1)
    ends = middle[:2] + length * rotation[:2].T
    colors = ((235, 64, 52), (72, 199, 92), (66, 135, 245))
    # Axes that point away from the viewer are drawn first, so that the others cover them.
    for axis in np.argsort(rotation[2]):
        start, end = (tuple(round(v) for v in point * [1, -1]) for point in (middle[:2], ends[axis]))
        cv2.arrowedLine(image, start, end, colors[axis], thickness, cv2.LINE_AA, tipLength=0.12)
    return image


def describe_pose(params: np.ndarray) -> dict[str, Any]:
    """Angles in degrees and scale of parameters (P,), as a dict for JSON."""
    scale, (pitch, yaw, roll) = parameters.pose(np.asarray(params))
    return {"pitch": float(pitch), "yaw": float(yaw), "roll": float(roll), "scale": float(scale)}

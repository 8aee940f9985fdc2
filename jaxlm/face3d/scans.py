"""3D scans of faces: reading Wavefront files, rendering pictures of them, and aligning reconstructions with them."""

import itertools
import math
from pathlib import Path
from typing import NamedTuple

import cv2
import jax.numpy as jnp
import numpy as np
from scipy.spatial import KDTree

from jaxlm.face3d import parameters, rasterizer
from jaxlm.support.errors import BadSample

# VRN (Jackson et al., ICCV 2017) renders Florence at these pitches and at yaws spread evenly over ±80°.
PITCHES, YAWS = (-15.0, 20.0, 25.0), tuple(np.linspace(-80.0, 80.0, 7))


class Scan(NamedTuple):
    """A textured mesh; the face looks along z, y is up.

    Attributes:
        vertices: (V, 3).
        triangles: (F, 3) vertex indices.
        uv: (V, 2) texture coordinates, column and row in [0, 1].
        texture: (h, w, 3) uint8 RGB; grey if the scan has no texture.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    uv: np.ndarray
    texture: np.ndarray


def read_scan(path: Path) -> Scan:
    """Reads an OBJ file and the texture that its `.mtl` file names; polygons are cut into triangles.

    Raises:
        BadSample: if a line is not OBJ (the message names it), or the file holds no mesh.
    """
    points, coordinates, corners, material = [], [], [], None
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        kind, *words = line.split() or [""]
        try:
            if kind == "v":
                points.append([float(word) for word in words[:3]])
            elif kind == "vt":
                coordinates.append([float(word) for word in words[:2]])
            elif kind == "f":
                face = [tuple(int(part) if part else 0 for part in (word.split("/") + [""])[:2]) for word in words]
                corners += [(face[0], second, third) for second, third in itertools.pairwise(face[1:])]
            elif kind == "mtllib":
                material = path.with_name(words[0])
        except (ValueError, IndexError):
            raise BadSample(f"{path}, line {number} is not OBJ: {line[:60]!r}.") from None
    if not points or not corners:
        raise BadSample(f"{path} has {len(points)} vertices and {len(corners)} faces: it is not a mesh.")
    # A vertex with two texture coordinates becomes two vertices.
    indices = np.array(corners).reshape(-1, 2)
    indices += np.where(indices < 0, [len(points) + 1, len(coordinates) + 1], 0)  # negative indices count from the end
    unique, inverse = np.unique(indices, axis=0, return_inverse=True)
    vertices = np.array(points)[unique[:, 0] - 1]
    if coordinates:
        uv = np.array(coordinates)[unique[:, 1] - 1] * [1.0, -1.0] + [0.0, 1.0]
    else:
        uv = np.full((len(vertices), 2), 0.5)
    return Scan(vertices, inverse.reshape(-1, 3), uv, _texture_of(material))


def _texture_of(material: Path | None) -> np.ndarray:
    if material is not None and material.is_file():
        for line in material.read_text(errors="replace").splitlines():
            if line.strip().startswith("map_Kd"):
                image = cv2.imread(str(material.with_name(line.split()[-1])))
                if image is not None:
                    return image[..., ::-1]
    return np.full((2, 2, 3), 170, np.uint8)


def photograph(scan: Scan, pitch: float, yaw: float, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Renders a picture (size, size, 3) uint8 of a scan and returns it with the vertices (V, 3) in its frame.

    The light comes from the viewer. The upright scan fills two thirds of the picture's height.

    Args:
        scan: the scan.
        pitch: rotation of the scan in degrees, see `jaxlm.face3d.parameters`.
        yaw: rotation of the scan in degrees.
        size: side of the picture in pixels.
    """
    center = (scan.vertices.max(axis=0) + scan.vertices.min(axis=0)) / 2
    scale = 0.66 * size / np.ptp(scan.vertices[:, 1])
    turn = parameters.rotation_of_angles(np.array(pitch), np.array(yaw), np.array(0.0))
    vertices = scale * (scan.vertices - center) @ turn.T + np.array([size / 2, -size / 2, 0.0])
    pixels = jnp.asarray(parameters.picture_pixels(vertices), jnp.float32)
    corners = vertices[scan.triangles]
    sides = np.ptp(corners[..., :2], axis=1).max(axis=1)
    order = np.argsort(sides, kind="stable")
    ends = [round(share * len(order)) for share in (0.9, 0.99, 1.0)]
    windows = [min(math.ceil(sides[order][end - 1]) + 1, size) for end in ends]
    groups = tuple((int(n), w) for n, w in zip(np.diff([0, *ends]), windows, strict=True) if n)
    triangles = jnp.asarray(scan.triangles[order], jnp.int32)
    seen = rasterizer.rasterize(pixels, triangles, shape=(size, size), patches=groups)
    normals = rasterizer.vertex_normals(jnp.asarray(vertices, jnp.float32), triangles)
    layers = rasterizer.interpolate(
        seen, triangles, jnp.concatenate([normals, jnp.asarray(scan.uv, jnp.float32)], axis=1)
    )
    color = rasterizer.sample_texture(jnp.asarray(scan.texture, jnp.float32), layers[..., 3:])
    light = 0.35 + 0.65 * jnp.clip(jnp.abs(layers[..., 2:3]), 0.0, 1.0)
    image = jnp.where((seen.triangle >= 0)[..., None], color * light, 60.0)
    return np.clip(np.round(np.asarray(image)), 0, 255).astype(np.uint8), vertices


def align(points: np.ndarray, target: np.ndarray, steps: int = 40) -> np.ndarray:
    """Aligns points (N, 3) with a surface by a similarity (iterative closest points) and returns the moved points.

    Points and surface are in one picture's frame, so at first only the depth is unknown. It starts at the median
    difference between the points and the front of the surface near them. Each step matches every point with its nearest
    neighbour on the surface and fits rotation, scale and shift (Umeyama, TPAMI 1991). The tenth of the points that is
    farthest from the surface is left out of the fit.

    Args:
        points: (N, 3) points to align.
        target: (M, 3) points of the surface.
        steps: number of steps.
    """
    tree = KDTree(target)
    around = np.asarray(KDTree(target[:, :2]).query(points[:, :2], k=min(24, len(target)))[1])
    moved = points + [0.0, 0.0, np.median(target[around, 2].max(axis=1) - points[:, 2])]
    for _ in range(steps):
        distance, nearest = map(np.asarray, tree.query(moved))
        kept = distance <= np.quantile(distance, 0.9)
        source, goal = moved[kept], target[nearest[kept]]
        a, b = source - source.mean(axis=0), goal - goal.mean(axis=0)
        left, strengths, right = np.linalg.svd(b.T @ a)
        signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
        scale = (strengths * signs).sum() / np.square(a).sum()
        moved = scale * (moved - source.mean(axis=0)) @ (left @ np.diag(signs) @ right).T + goal.mean(axis=0)
    return moved

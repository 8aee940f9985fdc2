"""Triangle meshes of morphable models: writing OBJ and PLY files, and the drawing order for the rasteriser."""

import math
from pathlib import Path

import numpy as np

from jaxlm.face3d import parameters
from jaxlm.face3d.morphable import MorphableModel, shape
from jaxlm.support.files import write_atomically, write_bytes_atomically


def write_obj(
    path: Path,
    vertices: np.ndarray,
    triangles: np.ndarray,
    *,
    uv: np.ndarray | None = None,
    texture: str | None = None,
) -> None:
    """Writes a Wavefront OBJ file and, with a texture, the `.mtl` file beside it.

    Args:
        path: file to write, ending in .obj.
        vertices: (V, 3).
        triangles: (F, 3) vertex indices, counted from 0.
        uv: (V, 2) texture coordinates, column and row in [0, 1], rows counted from the top. The file counts them from
            the bottom, as OBJ does.
        texture: file name of a picture beside `path`.
    """
    lines = [f"v {x:.6g} {y:.6g} {z:.6g}" for x, y, z in vertices]
    if uv is not None:
        lines += [f"vt {u:.6f} {1 - v:.6f}" for u, v in uv]
    if texture is not None:
        material = path.with_suffix(".mtl")
        write_atomically(material, f"newmtl face\nKa 1 1 1\nKd 1 1 1\nmap_Kd {texture}\n")
        lines = [f"mtllib {material.name}", *lines, "usemtl face"]
    corner = "{0}/{0}" if uv is not None else "{0}"
    lines += ["f " + " ".join(corner.format(index + 1) for index in face) for face in triangles.tolist()]
    write_atomically(path, "\n".join(lines) + "\n")


def write_ply(path: Path, vertices: np.ndarray, triangles: np.ndarray, colors: np.ndarray | None = None) -> None:
    """Writes a binary PLY file.

    Args:
        path: file to write, ending in .ply.
        vertices: (V, 3).
        triangles: (F, 3) vertex indices, counted from 0.
        colors: (V, 3) uint8 RGB of the vertices.
    """
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    names = ["property float x", "property float y", "property float z"]
    if colors is not None:
        fields += [(name, "u1") for name in ("red", "green", "blue")]
        names += [f"property uchar {name}" for name in ("red", "green", "blue")]
    points = np.zeros(len(vertices), fields)
    for column, name in enumerate("xyz"):
        points[name] = vertices[:, column]
    if colors is not None:
        for column, name in enumerate(("red", "green", "blue")):
            points[name] = colors[:, column]
    faces = np.zeros(len(triangles), [("count", "u1"), ("corners", "<i4", (3,))])
    faces["count"], faces["corners"] = 3, triangles
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *names]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header\n"]
    content = "\n".join(header).encode() + points.tobytes() + faces.tobytes()
    write_bytes_atomically(path, lambda file: file.write(content))


def draw_order(model: MorphableModel, pixels: float) -> tuple[np.ndarray, tuple[tuple[int, int], ...]]:
    """Drawing order of a model's triangles, and their groups for `jaxlm.face3d.rasterizer.rasterize`.

    Args:
        model: the model whose triangles are drawn.
        pixels: largest length in pixels of the longer side of the landmarks' box.

    Returns:
        Order (F,) of the triangles, smallest first, and the groups (number of triangles, side of their window in
        pixels). The windows fit the mean face and leave some room for other faces.
    """
    _, identity, expression = parameters.split(model.param_mean, model)
    mean = np.asarray(shape(model, identity, expression))
    corners = mean[np.asarray(model.triangles)]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(axis=1)
    extent = np.ptp(mean[np.asarray(model.landmarks)][:, :2], axis=0).max()
    sides = 1.3 * longest * pixels / extent
    order = np.argsort(sides, kind="stable")
    ends = [round(share * len(order)) for share in (0.5, 0.8, 0.95, 1.0)]
    windows = [min(math.ceil(sides[order][end - 1]) + 1, math.ceil(pixels)) for end in ends]
    counts = np.diff([0, *ends])
    return order, tuple((int(count), window) for count, window in zip(counts, windows, strict=True) if count)

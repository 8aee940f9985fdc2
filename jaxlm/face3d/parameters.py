"""Parameters of a morphable model in an image, in 3DDFA's convention (Guo et al., ECCV 2020, Section 2.1).

p = [T, α] holds T = [f R; t] row by row, 3 × 4, then the coefficients of identity and of expression. V = T [S; 1] has x
to the right, y up and z towards the viewer. There are two frames:

- the *picture's* frame: x is the pixel's column and y is minus its row, both counted from 0;
- the *crop's* frame, in which networks regress, is that of the released weights: in a crop of side s, x counts pixels
  from 1 at the left and y from 1 at the bottom, so that a vertex is seen at pixel (x − 1, s − y).

Angles follow 300W-LP: R = R_x(pitch) R_y(yaw) R_z(roll). Positive pitch lifts the chin, positive yaw turns the face to
the viewer's left, positive roll turns the head clockwise on the screen. The functions take NumPy or JAX arrays;
`vertices` takes JAX arrays only.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlm.face3d.morphable import MorphableModel, shape

Params = Any  # (..., P), NumPy or JAX


def split(params: Params, model: MorphableModel) -> tuple[Any, Any, Any]:
    """T (..., 3, 4), identity (..., I) and expression (..., E) of parameters that are not z-scored."""
    number = model.identity.shape[2]
    transform = params[..., :12].reshape(*params.shape[:-1], 3, 4)
    return transform, params[..., 12 : 12 + number], params[..., 12 + number :]


def vertices(params: Float[Array, "*B P"], model: MorphableModel) -> Float[Array, "*B V 3"]:
    """Vertices V_3d(p) = T [S̄ + A α; 1], Eq. (5), in the frame of the parameters."""
    transform, identity, expression = split(params, model)
    turned = shape(model, identity, expression) @ transform[..., :3].swapaxes(-1, -2)
    return turned + transform[..., None, :, 3]


def z_score(params: Params, model: MorphableModel) -> Params:
    """Z-scored parameters (p − μ)/σ."""
    return (params - _row(model.param_mean, params)) / _row(model.param_std, params)


def undo_z_score(params: Params, model: MorphableModel) -> Params:
    """Parameters σ p + μ of z-scored ones: the inverse of `z_score`."""
    return params * _row(model.param_std, params) + _row(model.param_mean, params)


def _row(vector: Any, params: Params) -> Any:
    return vector.reshape((1,) * (params.ndim - 1) + vector.shape)


def crop_pixels(points: Any, size: int) -> Any:
    """Pixels (y down) in a crop of side `size` of vertices (..., V, 2 or 3) in the crop's frame; z is unchanged."""
    module = np if isinstance(points, np.ndarray) else jnp
    flat = module.stack([points[..., 0] - 1.0, size - points[..., 1]], axis=-1)
    return module.concatenate([flat, points[..., 2:]], axis=-1)


def picture_pixels(points: Any) -> Any:
    """Pixels (y down) of vertices (..., V, 2 or 3) in the picture's frame; z is unchanged."""
    module = np if isinstance(points, np.ndarray) else jnp
    return points * _row(module.array([1.0, -1.0, 1.0][: points.shape[-1]], points.dtype), points)


def move(params: Params, matrix: Any) -> Params:
    """Parameters (..., P) after a similarity is applied to the image plane.

    Args:
        params: (..., P), not z-scored.
        matrix: (..., 2, 3) similarity p' = M [p; 1] in the frame of the parameters (y up), without a reflection. Depth
            is scaled by the same factor.
    """
    module = np if isinstance(params, np.ndarray) else jnp
    transform = params[..., :12].reshape(*params.shape[:-1], 3, 4)
    linear, shift = matrix[..., :2], matrix[..., 2]
    scale = module.sqrt(abs(module.linalg.det(linear)))[..., None, None]
    plane = linear @ transform[..., :2, :]
    plane = module.concatenate([plane[..., :3], plane[..., 3:] + shift[..., None]], axis=-1)
    moved = module.concatenate([plane, scale * transform[..., 2:, :]], axis=-2)
    return module.concatenate([moved.reshape(*params.shape[:-1], 12), params[..., 12:]], axis=-1)


def to_crop(params: Params, transform: Any, size: int) -> Params:
    """Converts parameters (..., P) from the picture's frame to a crop's frame.

    Args:
        params: (..., P) in the picture's frame, not z-scored.
        transform: (..., 2, 3) similarity from pixels of the picture to pixels of the crop (y down), without a
            reflection.
        size: side of the crop in pixels.
    """
    module = np if isinstance(params, np.ndarray) else jnp
    flip = module.array([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]])
    offset = module.array([[0.0, 0.0, 1.0], [0.0, 0.0, size]])
    return move(params, transform * flip + offset)


def to_picture(params: Params, transform: Any, size: int) -> Params:
    """Converts parameters (..., P) from a crop's frame to the picture's frame: the inverse of `to_crop`."""
    module = np if isinstance(params, np.ndarray) else jnp
    linear = module.linalg.inv(transform[..., :2])
    # Crop frame → crop pixels → picture pixels → picture frame.
    to_pixels = module.array([[1.0, 0.0, -1.0], [0.0, -1.0, size]])
    shift = linear @ (to_pixels[:, 2] - transform[..., 2])[..., None]
    matrix = module.concatenate([linear @ to_pixels[:, :2], shift], axis=-1)
    return move(params, matrix * module.array([[1.0], [-1.0]]))


def rotation_of_angles(pitch: Any, yaw: Any, roll: Any) -> Any:
    """Rotation matrices (..., 3, 3) of angles in degrees, in 300W-LP's convention (see the module)."""
    module = jnp if isinstance(pitch, Array) else np
    (sp, sy, sr), (cp, cy, cr) = (
        [function(module.deg2rad(module.asarray(angle))) for angle in (pitch, yaw, roll)]
        for function in (module.sin, module.cos)
    )
    rows = (
        (cy * cr, cy * sr, -sy),
        (-cp * sr + sp * sy * cr, cp * cr + sp * sy * sr, sp * cy),
        (sp * sr + cp * sy * cr, -sp * cr + cp * sy * sr, cp * cy),
    )
    return module.stack([module.stack(row, axis=-1) for row in rows], axis=-2)


def pose(params: Params) -> tuple[Any, Any]:
    """Scale (...) and angles (..., 3) of parameters that are not z-scored: pitch, yaw and roll in degrees.

    Both come from the first two rows of T, as in the released code; the third row of the rotation is their cross
    product. At the gimbal lock (yaw of ±90°), where pitch and roll turn about one axis, the roll is 0. Yaw lies in
    [−90, 90], pitch and roll in (−180, 180].
    """
    module = np if isinstance(params, np.ndarray) else jnp
    rows = params[..., :12].reshape(*params.shape[:-1], 3, 4)[..., :2, :3]
    lengths = module.linalg.norm(rows, axis=-1)
    first, second = (rows / module.maximum(lengths, 1e-12)[..., None])[..., 0, :], rows[..., 1, :]
    second = second - (second * first).sum(axis=-1, keepdims=True) * first  # a network's rows need not be orthogonal
    second = second / module.maximum(module.linalg.norm(second, axis=-1, keepdims=True), 1e-12)
    third = module.cross(first, second)
    angles = angles_of_rotation(module.stack([first, second, third], axis=-2))
    return lengths.mean(axis=-1), angles


def angles_of_rotation(rotation: Any) -> Any:
    """Pitch, yaw and roll (..., 3) in degrees of rotations (..., 3, 3); see `pose` for the gimbal lock."""
    module = np if isinstance(rotation, np.ndarray) else jnp
    sine = module.clip(-rotation[..., 0, 2], -1.0, 1.0)
    locked = abs(sine) > 1.0 - 1e-7
    pitch = module.arctan2(rotation[..., 1, 2], rotation[..., 2, 2])
    pitch = module.where(locked, module.arctan2(module.sign(sine) * rotation[..., 1, 0], rotation[..., 1, 1]), pitch)
    roll = module.where(locked, 0.0, module.arctan2(rotation[..., 0, 1], rotation[..., 0, 0]))
    return module.rad2deg(module.stack([pitch, module.arcsin(sine), roll], axis=-1))

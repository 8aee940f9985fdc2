"""3D morphable models: a mean face and linear modes of identity and expression (Blanz & Vetter, SIGGRAPH 1999).

Model axes: x to the viewer's right, y up, z towards the viewer. Images have y down, so a projection flips it.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class MorphableModel(NamedTuple):
    """A linear model of face shape.

    Attributes:
        mean: (V, 3) in the model's length unit.
        identity: (V, 3, I) displacement of one standard deviation of each identity mode.
        expression: (V, 3, E) displacement of each expression at full strength 1.
        triangles: (F, 3) vertex indices, counter-clockwise seen from outside.
        uv: (V, 2) texture coordinates in [0, 1]: column, row.
        landmarks: (K,) vertex of each landmark.
    """

    mean: Float[Array, "V 3"]
    identity: Float[Array, "V 3 I"]
    expression: Float[Array, "V 3 E"]
    triangles: Int[Array, "F 3"]
    uv: Float[Array, "V 2"]
    landmarks: Int[Array, " K"]


def shape(
    model: MorphableModel, identity: Float[Array, "*B I"], expression: Float[Array, "*B E"]
) -> Float[Array, "*B V 3"]:
    """Vertices mean + A_id α_id + A_exp α_exp."""
    return (
        model.mean
        + jnp.einsum("vci,...i->...vc", model.identity, identity)
        + jnp.einsum("vce,...e->...vc", model.expression, expression)
    )


def rotation(yaw: Float[Array, "*B"], pitch: Float[Array, "*B"], roll: Float[Array, "*B"]) -> Float[Array, "*B 3 3"]:
    """R = R_z(roll) R_x(pitch) R_y(yaw), angles in radians.

    Positive yaw turns the face to the viewer's right, positive pitch lifts the chin, positive roll turns the head
    counter-clockwise on the screen.
    """
    zero, one = jnp.zeros_like(yaw), jnp.ones_like(yaw)

    def matrix(*rows):
        return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)

    cos_y, sin_y = jnp.cos(yaw), jnp.sin(yaw)
    cos_x, sin_x = jnp.cos(pitch), jnp.sin(pitch)
    cos_z, sin_z = jnp.cos(roll), jnp.sin(roll)
    about_y = matrix((cos_y, zero, sin_y), (zero, one, zero), (-sin_y, zero, cos_y))
    about_x = matrix((one, zero, zero), (zero, cos_x, sin_x), (zero, -sin_x, cos_x))
    about_z = matrix((cos_z, -sin_z, zero), (sin_z, cos_z, zero), (zero, zero, one))
    return about_z @ about_x @ about_y


def project(
    vertices: Float[Array, "*B V 3"],
    rotation: Float[Array, "*B 3 3"],
    scale: Float[Array, "*B"],
    center: Float[Array, "*B 2"],
) -> Float[Array, "*B V 3"]:
    """Scaled orthographic projection to image pixels.

    Args:
        vertices: in the model's unit, y up.
        rotation: of the head.
        scale: pixels per unit.
        center: (x, y) pixel of the model's origin.

    Returns:
        x, y in pixels (y down) and the depth in pixels, larger is nearer.
    """
    turned = scale[..., None, None] * (vertices @ rotation.swapaxes(-1, -2))
    return jnp.concatenate(
        [
            turned[..., :1] + center[..., None, :1],
            center[..., None, 1:] - turned[..., 1:2],
            turned[..., 2:],
        ],
        axis=-1,
    )

"""3D morphable models: a mean face and linear modes of identity and expression (Blanz & Vetter, SIGGRAPH 1999).

Model axes: x to the viewer's right, y up, z towards the viewer. Images have y down, so a projection flips it.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class MorphableModel(NamedTuple):
    """A linear model of face shape.

    Attributes:
        mean: (V, 3) in the model's length unit.
        identity: (V, 3, I) displacement by each identity coefficient of 1.
        expression: (V, 3, E) displacement by each expression coefficient of 1.
        triangles: (F, 3) vertex indices, counter-clockwise seen from outside.
        uv: (V, 2) texture coordinates in [0, 1]: column, row.
        landmarks: (K,) vertex index of each landmark.
        param_mean: (12 + I + E,) mean by which parameters (`jaxlm.face3d.parameters`) are z-scored for a network. For
            the coefficients it is also the prior mean. 0 if it is not known.
        param_std: (12 + I + E,) standard deviation by which parameters are z-scored. For the coefficients it is also
            the prior standard deviation. 1 if it is not known.
        millimetres: () length of the model's unit in millimetres.
    """

    mean: Float[Array, "V 3"]
    identity: Float[Array, "V 3 I"]
    expression: Float[Array, "V 3 E"]
    triangles: Int[Array, "F 3"]
    uv: Float[Array, "V 2"]
    landmarks: Int[Array, " K"]
    param_mean: Float[Array, " P"]
    param_std: Float[Array, " P"]
    millimetres: Float[Array, ""]

    @property
    def num_params(self) -> int:
        """Number of parameters P = 12 + I + E: of the similarity, of identity and of expression."""
        return 12 + self.identity.shape[2] + self.expression.shape[2]


def make_model(
    mean: np.ndarray,
    identity: np.ndarray,
    expression: np.ndarray,
    landmarks: np.ndarray,
    *,
    triangles: np.ndarray | None = None,
    uv: np.ndarray | None = None,
    param_mean: np.ndarray | None = None,
    param_std: np.ndarray | None = None,
    millimetres: float = 1.0,
) -> MorphableModel:
    """Makes a model from NumPy arrays; see `MorphableModel` for their shapes.

    Args:
        mean: mean face in the model's unit.
        identity: basis of identity.
        expression: basis of expression.
        landmarks: vertex indices of the landmarks.
        triangles: vertex indices, all in the same orientation, which may be either. None triangulates the mean face
            seen from the front, which is meant for a model of landmarks only.
        uv: texture coordinates. None unrolls the mean face onto a cylinder.
        param_mean: mean of the parameters; None stands for 0.
        param_std: standard deviation of the parameters; None stands for 1.
        millimetres: length of the model's unit in millimetres.

    Raises:
        ValueError: if the arrays do not fit each other.
    """
    count = 12 + identity.shape[2] + expression.shape[2]
    if landmarks.dtype.kind not in "iu" or landmarks.min() < 0 or landmarks.max() >= len(mean):
        raise ValueError(f"The landmarks must be vertex indices, integers between 0 and {len(mean) - 1}.")
    for name, values in (("param_mean", param_mean), ("param_std", param_std)):
        if values is not None and values.shape != (count,):
            raise ValueError(f"{name} has the shape {values.shape}, but the model has {count} parameters.")
    if triangles is None:
        triangles = _triangulated(mean)
    elif triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.min() < 0 or triangles.max() >= len(mean):
        raise ValueError(f"The triangles must be (F, 3) vertex indices between 0 and {len(mean) - 1}.")
    else:
        triangles = _outwards(mean, triangles, float(mean[landmarks, 2].mean()))
    return MorphableModel(
        mean=jnp.asarray(mean, jnp.float32),
        identity=jnp.asarray(identity, jnp.float32),
        expression=jnp.asarray(expression, jnp.float32),
        triangles=jnp.asarray(triangles, jnp.int32),
        uv=jnp.asarray(_unrolled(mean, mean[landmarks]) if uv is None else uv, jnp.float32),
        landmarks=jnp.asarray(landmarks, jnp.int32),
        param_mean=jnp.asarray(np.zeros(count) if param_mean is None else param_mean, jnp.float32),
        param_std=jnp.asarray(np.ones(count) if param_std is None else param_std, jnp.float32),
        millimetres=jnp.asarray(millimetres, jnp.float32),
    )


def _triangulated(mean: np.ndarray) -> np.ndarray:
    """Delaunay triangles (F, 3) of the vertices seen from the front, counter-clockwise."""
    from scipy.spatial import Delaunay  # what needs no mesh starts faster without it

    triangles = Delaunay(mean[:, :2]).simplices
    return np.where(_areas(mean, triangles)[:, None] < 0, triangles[:, ::-1], triangles)


def _outwards(mean: np.ndarray, triangles: np.ndarray, depth: float) -> np.ndarray:
    """Triangles, all reversed if those in front of `depth` are clockwise, as the Basel Face Model's are."""
    front = mean[triangles, 2].mean(axis=1) > depth
    return triangles[:, ::-1] if _areas(mean, triangles)[front].sum() < 0 else triangles


def _areas(mean: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Twice the areas (F,) of triangles seen from the front, positive for counter-clockwise ones."""
    a, b, c = (mean[triangles[:, i], :2] for i in range(3))
    return (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]


def _unrolled(mean: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Texture coordinates (V, 2) in [0, 1] from a cylinder whose upright axis lies between the ends of the contour."""
    x, _, z = landmarks[[0, -1] if len(landmarks) < 17 else [0, 16]].mean(axis=0)
    flat = np.stack([np.arctan2(mean[:, 0] - x, mean[:, 2] - z), -mean[:, 1]], axis=1)
    return (flat - flat.min(axis=0)) / np.ptp(flat, axis=0)


def select_vertices(model: MorphableModel, vertices: Int[Array, " n"]) -> MorphableModel:
    """The model with only the given vertices, for losses.

    `triangles` and `landmarks` are unchanged: they hold the indices of the whole model's vertices.
    """
    return model._replace(
        mean=model.mean[vertices],
        identity=model.identity[vertices],
        expression=model.expression[vertices],
        uv=model.uv[vertices],
    )


def landmark_model(model: MorphableModel) -> MorphableModel:
    """The model with only the landmarks as vertices, in their order, and triangles between them."""
    sparse = select_vertices(model, model.landmarks)
    triangles = jnp.asarray(_triangulated(np.asarray(sparse.mean)), jnp.int32)
    return sparse._replace(triangles=triangles, landmarks=jnp.arange(len(model.landmarks)))


def with_modes(model: MorphableModel, identity: int, expression: int) -> MorphableModel:
    """The model with only its first modes; 40 and 10 modes make the paper's 62 parameters.

    Raises:
        ValueError: if the model has fewer modes.
    """
    have = model.identity.shape[2], model.expression.shape[2]
    if not (1 <= identity <= have[0] and 1 <= expression <= have[1]):
        raise ValueError(
            f"The model has {have[0]} identity and {have[1]} expression modes: {identity} and {expression} were asked "
            "for."
        )
    kept = np.r_[0:12, 12 : 12 + identity, 12 + have[0] : 12 + have[0] + expression]
    return model._replace(
        identity=model.identity[..., :identity],
        expression=model.expression[..., :expression],
        param_mean=model.param_mean[kept],
        param_std=model.param_std[kept],
    )


def shape(
    model: MorphableModel, identity: Float[Array, "*B I"], expression: Float[Array, "*B E"]
) -> Float[Array, "*B V 3"]:
    """Vertices (..., V, 3): mean + A_id α_id + A_exp α_exp."""
    return (
        model.mean.reshape((1,) * (identity.ndim - 1) + model.mean.shape)
        + jnp.einsum("vci,...i->...vc", model.identity, identity)
        + jnp.einsum("vce,...e->...vc", model.expression, expression)
    )


def rotation(yaw: Any, pitch: Any, roll: Any) -> Any:
    """Rotation matrices R = R_z(roll) R_x(pitch) R_y(yaw) (..., 3, 3) of angles (...) in radians.

    Positive yaw turns the face to the viewer's right, positive pitch lifts the chin, positive roll turns the head
    counter-clockwise on the screen. Angles of NumPy give matrices of NumPy, others those of JAX.
    """
    module = jnp if isinstance(yaw, Array) else np
    zero, one = module.zeros_like(yaw), module.ones_like(yaw)

    def matrix(*rows):
        return module.stack([module.stack(row, axis=-1) for row in rows], axis=-2)

    cos_y, sin_y = module.cos(yaw), module.sin(yaw)
    cos_x, sin_x = module.cos(pitch), module.sin(pitch)
    cos_z, sin_z = module.cos(roll), module.sin(roll)
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
        vertices: vertices in the model's unit, y up.
        rotation: rotation matrices of the head.
        scale: pixels per unit.
        center: (x, y) pixel of the model's origin.

    Returns:
        (..., V, 3): x, y in pixels (y down) and the depth in pixels, larger is nearer.
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

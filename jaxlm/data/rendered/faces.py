"""Rendered faces with random pose, light, appearance, occlusion and blur; need no download.

Landmarks, visibility and boxes are exact. The same seed and index give the same pixels.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxlm import geometry
from jaxlm.data.builder import FaceBuilder, file_stats
from jaxlm.data.rendered import heads, objects, paint
from jaxlm.data.rendered.heads import Head
from jaxlm.face3d import morphable, rasterizer
from jaxlm.face3d.ict_files import ict_files
from jaxlm.schemes import FACES68_OF_FACES98
from jaxlm.support.progress import progress

# Version of the pictures. Raise it when the head, the paint, the rasteriser or this module draws other pixels, so that
# cached faces are rendered again (tests/test_render.py fails if the pixels have changed).
RENDERER = 5
_BATCH = 16
_LARGEST_SCALE = 0.8 / 160  # pixels per millimetre and per pixel of the picture's side
_TURNED = (0.1, 0.35)  # radians of yaw between which hidden contour points move onto the outline
_INSIDE = 2.5  # millimetres by which annotators mark it inside the outline
SUBSETS = ("frontal", "pose", "expression", "occlusion", "blur")


class Scene(NamedTuple):
    """Input of the renderer for one face; in a batch every array has a leading batch axis.

    Attributes:
        identity: coefficients of the head's identity modes, (40,) for the built-in one.
        expression: strengths of its expressions, (10,) for the built-in one (`head.EXPRESSIONS`).
        angles: (3,) yaw, pitch, roll in radians; see `jaxlm.face3d.morphable.rotation`.
        scale: () pixels per millimetre.
        center: (2,) pixel x, y of the point between the eyes.
        light: (3,) direction towards the light, unit length.
        ambient: () strength of the ambient light.
        shine: () strength of the highlight.
        tint: (3,) RGB colour of the light.
    """

    identity: Any
    expression: Any
    angles: Any
    scale: Any
    center: Any
    light: Any
    ambient: Any
    shine: Any
    tint: Any


class Rendering(NamedTuple):
    """Rendered faces without background.

    Attributes:
        color: (B, S, S, 3) RGB in [0, 255].
        alpha: (B, S, S), 1 where the head is, 0 elsewhere.
        landmarks: (B, 98, 2) in pixels; hidden contour points lie on the outline if the contour is "2d".
        visible: (B, 98), 1 where the head itself does not hide the landmark, 0 where it does.
    """

    color: Float[Array, "B S S 3"]
    alpha: Float[Array, "B S S"]
    landmarks: Float[Array, "B 98 2"]
    visible: Float[Array, "B 98"]


def sample_scene(rng: np.random.Generator, size: int, grins: float = 0.0, head: Head | None = None) -> Scene:
    """Random scene: identity, pose (yaw up to ±60°), expression and light, for a picture of `size` × `size` pixels.

    Args:
        rng: source of all randomness.
        size: side of the picture in pixels.
        grins: probability of a smile that shows the teeth, instead of another expression.
        head: the head; the built-in one where it is None.
    """
    head = heads.built_in() if head is None else head
    identity = np.clip(rng.standard_normal(head.model.identity.shape[2]) * head.spread, -2, 2)
    yaw = np.deg2rad(np.clip(rng.standard_normal() * 20, -60, 60) if rng.random() < 0.85 else rng.uniform(-60, 60))
    pitch = np.deg2rad(np.clip(rng.standard_normal() * 11, -28, 28) if rng.random() < 0.85 else rng.uniform(-35, 35))
    roll = np.deg2rad(np.clip(rng.standard_normal() * 9, -30, 30))
    scale = size * _LARGEST_SCALE * rng.uniform(0.77, 1.0)
    light = np.array([rng.uniform(-1, 1), rng.uniform(-0.3, 1), rng.uniform(0.35, 1.2)])
    middle = np.array([0.5 * size, 0.5 * size - 43 * scale])
    middle = middle + rng.uniform(-0.05, 0.05, size=2) * size + np.array([24 * scale * np.sin(yaw), 0])
    return Scene(
        identity=identity.astype(np.float32),
        expression=head.expression(rng, grins).astype(np.float32),
        angles=np.array([yaw, pitch, roll], np.float32),
        scale=np.float32(scale),
        center=middle.astype(np.float32),
        light=(light / np.linalg.norm(light)).astype(np.float32),
        ambient=np.float32(rng.uniform(0.25, 0.7)),
        shine=np.float32(rng.uniform(0, 0.3)),
        tint=(rng.uniform(0.75, 1.3) * (1 + rng.uniform(-0.12, 0.12, size=3))).astype(np.float32),
    )


@functools.partial(jax.jit, static_argnames=("size", "patches", "slide"))
def _render(
    scenes: Scene,
    textures: Float[Array, "B T T 3"],
    model: morphable.MorphableModel,
    candidates: Int[Array, "33 n"],
    *,
    size: int,
    patches: tuple[tuple[int, int], ...],
    slide: bool,
) -> Rendering:
    def one(scene: Scene, texture):
        turn = morphable.rotation(*scene.angles)
        vertices = morphable.shape(model, scene.identity, scene.expression)
        pixels = morphable.project(vertices, turn, scene.scale, scene.center)
        fragments = rasterizer.rasterize(pixels, model.triangles, shape=(size, size), patches=patches)
        normals = rasterizer.vertex_normals(vertices, model.triangles) @ turn.T
        attributes = jnp.concatenate([normals, model.uv], axis=1)
        seen = rasterizer.interpolate(fragments, model.triangles, attributes)
        albedo = rasterizer.sample_texture(texture, seen[..., 3:]) / 255
        color = 255 * _shade(albedo, seen[..., :3], scene)
        alpha = (fragments.triangle >= 0).astype(jnp.float32)
        landmarks, depth = _landmarks(pixels, model.landmarks, candidates, scene, slide)
        column = jnp.clip(jnp.round(landmarks[:, 0]).astype(jnp.int32), 0, size - 1)
        row = jnp.clip(jnp.round(landmarks[:, 1]).astype(jnp.int32), 0, size - 1)
        visible = depth >= fragments.depth[row, column] - 6 * scene.scale
        return Rendering(color, alpha, landmarks, visible.astype(jnp.float32))

    # One face after the other: a batch of scatters takes twice the time on a CPU.
    return jax.lax.map(lambda face: one(*face), (scenes, textures))


def _shade(albedo, normals, scene: Scene):
    """Shaded colour in [0, 1]: Lambert shading with a wrapped terminator, and a Blinn highlight."""
    normals = normals / jnp.maximum(jnp.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)
    lambert = jnp.clip((normals @ scene.light + 0.15) / 1.15, 0.0, 1.0)
    half = scene.light + jnp.array([0.0, 0.0, 1.0])
    glint = jnp.clip(normals @ (half / jnp.linalg.norm(half)), 0.0, 1.0) ** 24
    facing = 0.75 + 0.25 * jnp.clip(normals[..., 2], 0.0, 1.0)
    light = (scene.ambient * facing + (1.1 - scene.ambient) * lambert)[..., None]
    tint = scene.tint.reshape(1, 1, 3)
    return jnp.clip(tint * (albedo * light + scene.shine * glint[..., None] * 0.6), 0.0, 1.0)


def _landmarks(pixels, vertices, candidates, scene: Scene, slide: bool):
    """Projected landmarks (98, 2) and depths (98,); with `slide`, hidden contour points of turned faces are moved.

    They move onto the outline, all of the way from a yaw of `_TURNED[1]` on, so that landmarks of videos do not jump.
    """
    points = pixels[vertices]
    along = pixels[candidates]
    yaw = scene.angles[0]
    hidden = jnp.where(yaw > 0, jnp.arange(33) > 16, jnp.arange(33) < 16)
    outward = jnp.where(jnp.arange(33)[:, None] < 16, -along[..., 0], along[..., 0])
    outermost = jnp.take_along_axis(along, jnp.argmax(outward, axis=1)[:, None, None], axis=1)[:, 0]
    outermost = outermost.at[:, 0].add(jnp.where(jnp.arange(33) < 16, 1.0, -1.0) * _INSIDE * scene.scale)
    outline = _evenly(jnp.where(hidden[:, None], outermost, points[:33]), hidden)
    turned = jnp.clip((jnp.abs(yaw) - _TURNED[0]) / (_TURNED[1] - _TURNED[0]), 0.0, 1.0)
    weight = slide * turned**2 * (3 - 2 * turned)
    contour = points[:33] + weight * jnp.where(hidden[:, None], outline - points[:33], 0.0)
    points = jnp.concatenate([contour, points[33:]])
    return points[:, :2], points[:, 2]


def _evenly(contour, hidden):
    """Contour (33, 3) whose hidden points are spread evenly along it from the chin, as annotators place them.

    They end it a little below the ear: its last twentieth stays without points.
    """
    steps = jnp.linalg.norm(jnp.diff(contour[:, :2], axis=0), axis=1)
    length = jnp.concatenate([jnp.zeros(1), jnp.cumsum(steps)])
    chin, index = length[16], jnp.arange(33)
    left, right = chin - 0.95 * (16 - index) / 16 * chin, chin + 0.95 * (index - 16) / 16 * (length[-1] - chin)
    even = jnp.stack([jnp.interp(jnp.where(index < 16, left, right), length, column) for column in contour.T], axis=1)
    return jnp.where(hidden[:, None], even, contour)


def render_faces(
    scenes: Scene, textures: np.ndarray, size: int, contour: str = "2d", head: Head | None = None
) -> Rendering:
    """Renders a batch of scenes with textures (B, T, T, 3) at `size` × `size`.

    With the contour "2d" hidden contour points lie on the outline, where annotators put them; with "3d" they stay on
    the jaw.
    """
    head = heads.built_in() if head is None else head
    candidates = jnp.asarray(head.candidates, jnp.int32)
    scenes, patches = jax.tree.map(jnp.asarray, scenes), head.patches(_LARGEST_SCALE * size)
    painted = jnp.asarray(textures, jnp.float32)
    return _render(scenes, painted, head.model, candidates, size=size, patches=patches, slide=contour == "2d")


def params_of_scene(scene: Scene) -> np.ndarray:
    """Parameters (P,) of the scene's head, in the picture's frame (`jaxlm.face3d.parameters`)."""
    turn: Any = morphable.rotation(*np.asarray(scene.angles, np.float64))
    shift = np.array([scene.center[0], -scene.center[1], 0.0])
    transform = np.concatenate([scene.scale * turn, shift[:, None]], axis=1)
    return np.concatenate([transform.ravel(), scene.identity, scene.expression])


def photographs(
    seed: int,
    start: int,
    count: int,
    size: int,
    contour: str = "2d",
    grins: float = 0.0,
    turns: Sequence[Head] = (),
) -> Iterator[dict[str, np.ndarray]]:
    """Yields faces `start` to `start + count - 1` of the endless set that `seed` determines.

    See `render_faces` for `contour` and `sample_scene` for `grins`. The heads of `turns` have 16
    faces each, in turn; there is only the built-in one by default.

    Yields:
        image (size, size, 3) uint8 RGB, landmarks (98, 2) in pixels, visibility (98,), params (P,) of the head's model,
        subsets (a tuple of names).
    """
    turns = turns or (heads.built_in(),)
    pending = None
    for first in range(start - start % _BATCH, start + count, _BATCH):
        head = turns[first // _BATCH % len(turns)]
        rngs = [np.random.default_rng([seed, index]) for index in range(first, first + _BATCH)]
        scenes = [sample_scene(rng, size, grins, head) for rng in rngs]
        textures, hairs = zip(*(paint.paint_texture(rng) for rng in rngs), strict=True)
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *scenes)
        rendering = render_faces(stacked, np.stack(textures), size, contour, head)
        # While the device renders this batch, the host finishes the one before.
        if pending is not None:
            yield from _photograph_batch(*pending)
        wanted = range(max(start - first, 0), min(start + count - first, _BATCH))
        pending = rngs, scenes, hairs, rendering, wanted, head
    if pending is not None:
        yield from _photograph_batch(*pending)


def _photograph_batch(rngs, scenes, hairs, rendering, wanted: range, head: Head) -> Iterator[dict[str, np.ndarray]]:
    rendering = jax.device_get(rendering)
    for i in wanted:
        faces = (rendering.color[i], rendering.alpha[i], rendering.landmarks[i], rendering.visible[i])
        yield _photograph(rngs[i], scenes[i], *faces, hairs[i], head)


def _photograph(rng, scene: Scene, color, alpha, landmarks, visible, hair, head: Head) -> dict:
    size = color.shape[0]
    scale = float(scene.scale)
    chin = landmarks[16]
    background = paint.paint_shoulders(paint.paint_background(rng, size), rng, chin, scale, hair)
    alpha = cv2.GaussianBlur(alpha, (0, 0), 0.6)[..., None]
    image = (color * alpha + background * (1 - alpha)).clip(0, 255).astype(np.uint8)
    subsets = ["frontal" if abs(scene.angles[0]) <= np.deg2rad(30) else "pose"]
    if max(scene.expression[list(head.strong)]) > 0.5:
        subsets.append("expression")
    image, covered = objects.paint_objects(image, rng, landmarks, hair)
    column, row = np.round(landmarks).astype(int).clip(0, size - 1).T
    hidden = covered[row, column]
    if hidden.any():
        visible = np.where(hidden, 0.0, visible)
        subsets.append("occlusion")
    if rng.random() < 0.25:
        image = _blur(image, rng)
        subsets.append("blur")
    image = _expose(image, rng)
    return {
        "image": image,
        "landmarks": landmarks,
        "visibility": visible.astype(np.float32),
        "params": params_of_scene(scene),
        "subsets": tuple(subsets),
    }


def _blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = image.shape[0]
    if rng.random() < 0.5:
        return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.8, 0.018 * size))
    length = 2 * int(rng.integers(1, max(size // 36, 2))) + 1  # odd, so that the picture does not move by half a pixel
    kernel = np.zeros((length, length), np.float32)
    angle = rng.uniform(0, np.pi)
    middle = (length - 1) / 2
    ends = [tuple(round(middle + s * middle * f(angle)) for f in (np.cos, np.sin)) for s in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, 1)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def _expose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture as a camera takes it: exposure, noise, and sometimes the blocks of a JPEG."""
    bright = 255 * (image / np.float32(255)) ** np.float32(np.exp(rng.normal(0, 0.25)))
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, 6))
    image = np.clip(bright + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = int(rng.integers(25, 80))
        encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1]
    return image


def check_contour(contour: str) -> None:
    """Raises ValueError if `contour` is neither "2d" nor "3d"."""
    if contour not in ("2d", "3d"):
        raise ValueError(f'contour must be "2d" or "3d", got {contour!r}.')


class RenderedFaces(FaceBuilder):
    """Rendered faces in the splits "train" and "test", with different people in each. `root` is not used.

    Args:
        num_train: number of faces in the split "train".
        num_test: number of faces in the split "test".
        size: side of the pictures in pixels; a face takes about two thirds of it.
        seed: seed of all randomness.
        contour: "2d" or "3d", see `render_faces`.
        grins: see `sample_scene`.
        ict: ICT-FaceKit's folder or file, whose head then takes turns with the built-in one (see
            `jaxlm.data.rendered.heads`). The faces have no parameters then.
    """

    SUBSETS, MODES = SUBSETS, (40, 10)

    def __init__(
        self,
        root: str | Path,
        cache: str | Path,
        *,
        num_train: int,
        num_test: int,
        size: int,
        seed: int,
        contour: str = "2d",
        grins: float = 0.0,
        ict: str = "",
        **options,
    ):
        self.counts, self.size, self.seed = {"train": num_train, "test": num_test}, size, seed
        self.contour, self.grins, self.ict = contour, grins, str(Path(ict).expanduser()) if ict else ""
        if ict:
            self.MODES = None
        if min(self.counts.values()) < 1 or size < 32:
            raise ValueError("num_train and num_test must be at least 1 and size at least 32.")
        check_contour(contour)
        super().__init__(root, cache, **options)
        if self.scheme.name not in ("faces98", "faces68"):
            raise ValueError(f"The scheme of rendered faces must be faces98 or faces68, not {self.scheme.name!r}.")

    def annotation_files(self):
        return []

    def check_root(self):
        if self.ict and not Path(self.ict).exists():
            raise ValueError(f"{self.ict} does not exist: set the source's ict to ICT-FaceKit's folder FaceXModel.")

    def fingerprint(self):
        options = (self.counts, self.size, self.seed, self.contour, self.grins)
        options = (*options, *file_stats(ict_files(Path(self.ict)))) if self.ict else options
        return [f"renderer {RENDERER}", *self.reader_versions(), *map(str, options)]

    def _split_generators(self, dl_manager):
        del dl_manager
        starts = {"train": 0, "test": 10_000_000}
        return {split: self._generate_examples(split, starts[split]) for split in self.counts}

    def _generate_examples(self, split: str, start: int):
        count = self.counts[split]
        turns = (heads.built_in(), heads.ict_facekit(Path(self.ict))) if self.ict else ()
        faces = photographs(self.seed, start, count, self.size, self.contour, self.grins, turns)
        for number, face in enumerate(progress(faces, desc=f"rendering {split} faces", total=count, unit="face")):
            order = FACES68_OF_FACES98 if self.scheme.num_landmarks == 68 else np.arange(98)
            landmarks = face["landmarks"][order]
            flags = [name in face["subsets"] for name in SUBSETS]
            yield (
                f"{number:08d}",
                {
                    "image": cv2.imencode(".jpg", face["image"][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[
                        1
                    ].tobytes(),
                    "key": f"{split}/{number:06d}",
                    "landmarks": landmarks.astype(np.float32),
                    "mask": np.ones(len(order), np.uint8),
                    "visibility": face["visibility"][order],
                    "bbox": geometry.box_of_points(face["landmarks"]).astype(np.float32),
                    **({"params": face["params"]} if self.MODES else {}),
                    "subsets": np.array(flags, np.uint8),
                },
            )

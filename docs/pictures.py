"""Draws the pictures of the documentation that need no trained network but the package's own: python docs/pictures.py

Every picture shows a method on one rendered face: `pictures/ldeq.png`, `awing.png`, `reinit.png`, `tddfa.png`.
"""

import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm import geometry, heatmaps, load_model, losses, solvers
from jaxlm.data import crops
from jaxlm.data.rendered.faces import photographs
from jaxlm.face3d import fitting
from jaxlm.face3d.model_files import load_face_model
from jaxlm.face3d.morphable import landmark_model
from jaxlm.face3d.views import FaceRenderer, draw_pose
from jaxlm.schemes import FACES68, FACES68_OF_FACES98
from jaxlm.support import drawing
from jaxlm.support.pictures import warp, write_image
from jaxlm.systems.ldeq.system import make_model
from jaxlm.systems.reinit import alignment

FOLDER = Path(__file__).parent / "pictures"
SIDE = 240  # pixels of a panel
SHOWN = np.array([8, 36, 45, 30, 48, 54])  # landmarks whose heatmaps can be told apart: chin, eyes, nose, mouth
FACE = 38  # number of the face that is shown


def rendered_face(start: int, size: int = 320) -> tuple[np.ndarray, np.ndarray]:
    """Picture (size, size, 3) and 68 landmarks of a rendered face."""
    face = next(photographs(seed=4, start=start, count=1, size=size))
    return face["image"], face["landmarks"][FACES68_OF_FACES98]


def panel(image: np.ndarray, text: str) -> np.ndarray:
    """The picture as a panel (SIDE, SIDE, 3) with a caption."""
    scale = SIDE / image.shape[0]
    whole = warp(image, np.array([[scale, 0.0, scale / 2 - 0.5], [0.0, scale, scale / 2 - 0.5]]), SIDE)
    return drawing.caption(whole, text)


def draw_ldeq(path: Path) -> None:
    """Heatmaps of six landmarks after some steps of the solver, with the residuals, and all landmarks of the last."""
    image, points = rendered_face(FACE)
    model = load_model()
    config: Any = model.config
    size = config.image_size
    transform = geometry.box_to_crop(crops.crop_box(config.data.crop, points=points), size)
    crop = warp(image, transform, size)
    network = make_model(config)
    images, steps, panels = jnp.asarray(crop[None], jnp.float32), (1, 2, 3, 10), []
    for count in steps:
        solver = functools.partial(solvers.fixed_point_iteration, tol=0.0, max_steps=count)
        output: Any = network.predict(model.variables or {}, images, solver=solver)
        seen = drawing.overlay_heatmap(crop, np.asarray(output.heatmaps[0, ..., SHOWN]).max(axis=0), side=SIDE)
        residual = float(output.stats.residual[0])
        panels.append(drawing.caption(seen, f"{count} step{'s' * (count > 1)}, residual {residual:.3f}"))
    found = np.asarray(output.landmarks[0])
    drawn = drawing.draw_landmarks(crop, found, FACES68, scale=SIDE / size)
    write_image(path, drawing.sheet([*panels, drawing.caption(drawn, "landmarks")], columns=len(steps) + 1))


def draw_awing(path: Path) -> None:
    """Landmarks, target heatmaps, weight map and boundary of one face on 64 × 64 maps."""
    image, points = rendered_face(FACE)
    transform = geometry.box_to_crop(crops.crop_box("gt", points=points), 256)
    crop, points = warp(image, transform, 256), geometry.apply_affine(transform, points)
    cells = jnp.asarray(geometry.rescale_points(points, 0.25), jnp.float32)[None]
    target = heatmaps.encode_gaussian(cells, (64, 64), 1.75, radius=3)
    weight = losses.loss_map_weight(target, weight=10.0)
    mean_weight = np.asarray(weight[0]).mean(axis=-1)
    mask = jnp.ones(cells.shape[:2], bool)
    boundary = heatmaps.encode_boundary(cells, FACES68.segments, (64, 64), 1.5, mask=mask)
    over = functools.partial(drawing.overlay_heatmap, crop, side=SIDE)
    panels = {
        "landmarks": drawing.draw_landmarks(crop, points, FACES68, scale=SIDE / 256),
        "target heatmaps": over(np.asarray(target[0]).max(axis=-1)),
        "mean weight": over((mean_weight - 1) / (mean_weight.max() - 1)),
        "boundary": over(np.asarray(boundary[0, ..., 0])),
    }
    write_image(path, drawing.sheet([drawing.caption(p, text) for text, p in panels.items()], columns=len(panels)))


def draw_reinit(path: Path) -> None:
    """A rough crop, the normalised face and its parts, by Algorithm 1 with the face's own landmarks."""
    image, points = rendered_face(FACE)
    turn = geometry.similarity(0.9, 18.0, np.full(2, 159.5), np.array([150.0, 172.0]))
    image, points = warp(image, turn, 320), geometry.apply_affine(turn, points)
    others = np.stack([face["landmarks"][FACES68_OF_FACES98] for face in photographs(7, 0, 48, 160)])
    mean = alignment.mean_shape(others, np.ones(others.shape[:2], bool), FACES68.flip)
    shapes, parts = {"face": slice(None)}, {name: list(p) for name, p in FACES68.parts.items() if name != "contour"}
    shapes |= parts
    panels = [panel(image, "rough crop")]
    unit = geometry.to_unit(jnp.asarray(points, jnp.float32)[None], 320)
    for name, chosen in shapes.items():
        some, reference = unit[:, chosen], jnp.asarray(mean)[jnp.asarray(chosen) if name != "face" else slice(None)]
        exists = jnp.ones(some.shape[:2], bool)
        matrix, _ = alignment.normalizing_map(some, exists, reference, kind="similarity", margin=1.2)
        whole = np.asarray(geometry.unit_to_pixels(matrix, 320, SIDE))[0]
        seen = warp(image, whole, SIDE)
        if name == "face":
            seen = drawing.draw_landmarks(seen, geometry.apply_affine(whole, points), FACES68)
        panels.append(drawing.caption(seen, "normalised face" if name == "face" else name.replace("_", " ")))
    write_image(path, drawing.sheet(panels, columns=len(panels)))


def draw_tddfa(path: Path) -> None:
    """One face with the mesh of the built-in head that is fitted to its landmarks, PNCC, depth and pose."""
    image, points = rendered_face(FACE)
    model = load_face_model("head")
    mask = np.ones((1, 68), bool)
    fit = fitting.fit_landmarks(points[None], mask, mask.astype(np.float32), landmark_model(model))
    params = fit.params[0]
    views = FaceRenderer(model).views(image, params)
    panels = {
        "landmarks": drawing.draw_landmarks(image, points, FACES68),
        "mesh": views.mesh,
        "PNCC": views.pncc,
        "depth": np.repeat(views.depth[..., None], 3, axis=2),
        "pose": draw_pose(image, params, model),
    }
    write_image(path, drawing.sheet([panel(p, text) for text, p in panels.items()], columns=len(panels)))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in {"ldeq": draw_ldeq, "awing": draw_awing, "reinit": draw_reinit, "tddfa": draw_tddfa}.items():
        draw(FOLDER / f"{name}.png")
        print(f"written: {FOLDER / name}.png")

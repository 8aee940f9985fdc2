"""Draws landmarks and heatmaps on faces, sheets of faces, and error curves."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jaxlm import geometry
from jaxlm.schemes import Scheme
from jaxlm.support.pictures import write_image

GREEN, RED, WHITE = (64, 255, 96), (255, 72, 72), (255, 255, 255)
_FACES = (GREEN, (80, 200, 255), (255, 190, 60), (255, 120, 220), (190, 150, 255), (240, 240, 90))


def color_of(number: int) -> tuple[int, int, int]:
    """RGB of the n-th face of a picture."""
    return _FACES[number % len(_FACES)]


def draw_landmarks(
    image: np.ndarray,
    landmarks: np.ndarray,
    scheme: Scheme,
    *,
    mask: np.ndarray | None = None,
    color: tuple[int, int, int] = GREEN,
    scale: float = 1.0,
) -> np.ndarray:
    """Image (H, W, 3) uint8, enlarged by `scale`, with the scheme's lines and points drawn.

    Args:
        image: RGB.
        landmarks: (K, 2) in pixels of the image as given.
        scheme: scheme of the landmarks; its lines are drawn.
        mask: (K,), true where a landmark exists.
        color: RGB of lines and points.
        scale: enlargement before drawing, so that thin lines stay thin.
    """
    if scale != 1.0:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    image = np.ascontiguousarray(image).copy()
    points = geometry.rescale_points(np.asarray(landmarks, np.float64), scale)
    exists = np.isfinite(points).all(axis=1) & (True if mask is None else np.asarray(mask, bool))
    # The thickness depends on the face's size. On a small face no dots are drawn, because they would touch each other.
    extent = float(np.ptp(points[exists], axis=0).max()) if exists.any() else 0.0
    thickness = int(np.clip(round(min(extent / 180, min(image.shape[:2]) / 200)), 1, 6))
    shadow = np.zeros(image.shape[:2], np.uint8)
    _draw_graph(shadow, points, exists, scheme, 255, thickness + 2, extent > 150)
    image = (image * (1 - 0.5 / 255 * shadow[..., None])).astype(np.uint8)  # dark edge for bright backgrounds
    _draw_graph(image, points, exists, scheme, color, thickness, extent > 150)
    return image


def _draw_graph(canvas: np.ndarray, points, exists, scheme: Scheme, color: Any, thickness: int, dots: bool) -> None:
    shift = 4  # OpenCV draws at 1/16 pixel
    fixed = np.round(np.where(exists[:, None], points, 0.0) * 2**shift).astype(np.int64).clip(-(2**30), 2**30)
    for a, b in scheme.segments:
        if exists[a] and exists[b]:
            ends = [tuple(int(v) for v in fixed[i]) for i in (a, b)]
            cv2.line(canvas, ends[0], ends[1], color, thickness, cv2.LINE_AA, shift)
    for index in np.flatnonzero(exists) if dots else ():
        center = tuple(int(v) for v in fixed[index])
        cv2.circle(canvas, center, int(1.2 * (thickness + 0.2) * 2**shift), color, -1, cv2.LINE_AA, shift)


def draw_comparison(
    image: np.ndarray, target: np.ndarray, pred: np.ndarray, scheme: Scheme, *, mask: np.ndarray, side: int
) -> np.ndarray:
    """Square image enlarged to `side` pixels, with the ground truth in green and the prediction in red.

    Args:
        image: (S, S, 3) uint8 RGB.
        target: (K, 2) ground truth in pixels of the image.
        pred: (K, 2) prediction in pixels of the image.
        scheme: scheme of the landmarks; its lines are drawn.
        mask: (K,), true where the ground truth exists.
        side: side of the result in pixels.
    """
    scale = side / len(image)
    drawn = draw_landmarks(image, target, scheme, mask=mask, scale=scale)
    return draw_landmarks(drawn, geometry.rescale_points(pred, scale), scheme, color=RED)


def overlay_heatmap(image: np.ndarray, heatmap: np.ndarray, side: int) -> np.ndarray:
    """A heatmap in colour over the darkened grey image, both enlarged to `side` pixels.

    Args:
        image: (H, W, 3) uint8 RGB, square.
        heatmap: (h, w); 0 and below is transparent, 1 and above is brightest.
        side: side of the result in pixels.
    """
    grey = cv2.cvtColor(cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC), cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(np.clip(heatmap, 0, 1).astype(np.float32), (side, side), interpolation=cv2.INTER_NEAREST)
    color = cv2.applyColorMap((255 * cells).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    strength = np.sqrt(cells)[..., None]
    return ((1 - strength) * 0.6 * grey[..., None] + strength * color).astype(np.uint8)


def caption(image: np.ndarray, text: str) -> np.ndarray:
    """Image with one line of text in its lower left corner; a dark edge keeps it readable on any background."""
    image = image.copy()
    size = max(image.shape[0] / 520, 0.32)
    place = (5, image.shape[0] - 6)
    for color, thickness in (((0, 0, 0), 3), (WHITE, 1)):
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, color, thickness, cv2.LINE_AA)
    return image


def sheet(images: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Sheet of images of one size (H, W, 3), `columns` in a row, with `gap` white pixels between them."""
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


@contextlib.contextmanager
def figure(
    path: Path, *, rows: int = 1, columns: int = 1, size: tuple[float, float] = (6, 4.2), title: str = ""
) -> Iterator[list[Any]]:
    """Context of a Matplotlib figure: gives its axes row by row, each `size` inches; writes it to `path` at the end."""
    # pyplot is left alone, because its backend belongs to the caller, a notebook for instance.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(size[0] * columns, size[1] * rows), dpi=120)
    canvas = FigureCanvasAgg(drawn)
    axes = drawn.subplots(rows, columns, squeeze=False)
    yield list(axes.ravel())
    if title:
        drawn.suptitle(title, fontsize=10)
    drawn.tight_layout()
    canvas.draw()
    write_image(path, np.asarray(canvas.buffer_rgba())[..., :3].copy())


def plot_curves(
    path: Path,
    curves: dict[str, dict[str, list[float]]],
    x: dict[str, tuple[float, ...]],
    titles: dict[str, str],
    ylabel: str,
) -> None:
    """Plots curves in panels side by side, all with the same range of y.

    Args:
        path: file to write.
        curves: panel -> name -> values at the panel's x.
        x: panel -> x of its values.
        titles: panel -> label of its x axis.
        ylabel: label of the y axis.
    """
    with figure(path, columns=len(curves)) as panels:
        top = max(value for panel in curves.values() for values in panel.values() for value in values)
        for axes, (panel, lines) in zip(panels, curves.items(), strict=True):
            for name, values in lines.items():
                axes.plot(x[panel], values, marker="o", markersize=3, label=name)
            axes.set(xlabel=titles[panel], ylim=(0, 1.05 * top))
            axes.grid(alpha=0.3)
        panels[0].set_ylabel(ylabel)
        panels[0].legend(frameon=False, fontsize=9)


def plot_ced(path: Path, curves: dict[str, np.ndarray], *, threshold: float, title: str) -> None:
    """Plots cumulative error distributions: the fraction of faces with an NME up to x.

    Args:
        path: file to write.
        curves: name -> (N,) NME of its faces, as fractions; NaNs are left out.
        threshold: largest x, as a fraction.
        title: title of the figure.
    """
    with figure(path) as (axes,):
        for name, values in curves.items():
            values = np.sort(values[~np.isnan(values)])
            if len(values) == 0:
                continue
            inside = values[values <= threshold]
            x = np.concatenate([[0.0], inside, [threshold]]) * 100
            y = np.concatenate([[0.0], np.arange(1, len(inside) + 1) / len(values), [len(inside) / len(values)]])
            axes.step(x, y, where="post", label=name, linewidth=2 if len(curves) == 1 or name == "all" else 1.2)
        axes.set(xlim=(0, 100 * threshold), ylim=(0, 1), xlabel="NME (%)", ylabel="fraction of faces", title=title)
        axes.grid(alpha=0.3)
        axes.legend(framealpha=0.85, edgecolor="none", loc="best", fontsize=8)

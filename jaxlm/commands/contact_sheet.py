"""Draws what training sees: faces of the sources, and what each augmentation does to them.

    jaxlm contact-sheet --config=quickstart --out=sheet.png

A row for the plain crop, one for each augmentation of the config alone, and one for all of them together; the landmarks
move with the picture. With --videos, rows of the short videos that are made of stills (the configs tddfa_*).
"""

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.commands.options import FromConfig, config_of_file
from jaxlm.config import Config
from jaxlm.data.augment import Augmentation
from jaxlm.data.batches import CropTransform, make_augmentation, train_batches
from jaxlm.data.sources import FaceSource, open_source
from jaxlm.face3d import parameters
from jaxlm.face3d.model_files import model_of
from jaxlm.schemes import get_scheme
from jaxlm.support import drawing
from jaxlm.support.pictures import write_image
from jaxlm.systems.tddfa import settings as tddfa
from jaxlm.systems.tddfa.synthesis import make_synthesis


def contact_sheet(sources: list[FaceSource], config: Config, columns: int, tile: int = 160) -> np.ndarray:
    """Sheet (H, W, 3) of `columns` faces taken in turn from the sources.

    A probability is shown as 1, so that every face of its row changes.
    """
    configured = make_augmentation(config)
    rows = {"crop": Augmentation()}
    probabilities = ("flip", "blur", "noise", "occlusion", "grey", "low_resolution")
    for field in dataclasses.fields(Augmentation):
        value = getattr(configured, field.name)
        if value and field.name != "box_samples":  # shows in one row of boxes
            change: Any = {field.name: 1.0 if field.name in probabilities else value}
            rows[field.name] = Augmentation(**change)
    rows["all"] = configured
    tiles = []
    for name, augmentation in rows.items():
        transform = CropTransform(config, augmentation)
        for column in range(columns):
            source = sources[column % len(sources)]
            record = source.records[column * 37 % len(source)]
            element = transform.crop_of(record, np.random.default_rng([config.seed, column]))
            picture = drawing.draw_landmarks(
                element["image"],
                element["landmarks"],
                source.scheme,
                mask=element["mask"],
                scale=tile / config.image_size,
            )
            tiles.append(drawing.caption(picture, name) if column == 0 else picture)
    return drawing.sheet(tiles, columns)


def video_sheet(config: tddfa.Config, columns: int, rows: int = 6, tile: int = 160) -> np.ndarray:
    """Sheet (H, W, 3) of short videos, `columns` frames each, with landmarks in every other row and the yaw and pitch.

    Raises:
        ValueError: for a config that makes none.
    """
    if "synthesis" not in config or config.synthesis.mode == "none":
        raise ValueError("This config makes no videos of stills: synthesis.mode must be video or random.")
    config = config.copy_and_resolve_references()
    config.synthesis.frames, config.train.batch_size = columns, columns * rows
    batch = jax.tree.map(jnp.asarray, next(iter(train_batches(config))))
    made = jax.jit(make_synthesis(config, model_of(config)))(batch, jax.random.key(config.seed))
    images = np.asarray(made["image"]).clip(0, 255).astype(np.uint8)
    angles = parameters.pose(np.asarray(made["params"]))[1]
    scheme, scale, tiles = get_scheme("faces68"), tile / config.image_size, []
    for number, image in enumerate(images):
        if number // columns % 2:
            picture = drawing.draw_landmarks(image, np.asarray(made["landmarks"][number]), scheme, scale=scale)
        else:
            picture = cv2.resize(image, (tile, tile), interpolation=cv2.INTER_CUBIC)
        tiles.append(drawing.caption(picture, f"yaw {angles[number, 1]:.0f}, pitch {angles[number, 0]:.0f}"))
    return drawing.sheet(tiles, columns)


@dataclasses.dataclass(frozen=True)
class Options:
    out: str = "sheet.png"
    """Picture to write."""
    videos: bool = False
    """Show short videos made of stills, with as many frames as there are columns."""
    columns: int = 8
    """Faces in a row."""
    config: FromConfig = None
    overrides: FromConfig = ()


read_config = config_of_file


def main(options: Options) -> None:
    """Writes the sheet."""
    config = options.config
    if options.videos:
        sheet = video_sheet(config, options.columns)
    else:
        trained_on = {name: source for name, source in config.data.sources.items() if source.weight > 0}
        sources = [open_source(config, name, source.train_split) for name, source in trained_on.items()]
        sheet = contact_sheet(sources, config, options.columns)
    write_image(Path(options.out).expanduser(), sheet)
    print(f"written: {options.out}")

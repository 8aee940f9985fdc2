"""What training sees: python -m jaxlm.data.contact_sheet --config=configs/quickstart.py --out=sheet.png

A row for the plain crop, one for each augmentation of the config alone, and one for all of them together; the landmarks
move with the picture.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from ml_collections import config_flags

from jaxlm import visualize
from jaxlm.app import one_sentence, quiet_logs
from jaxlm.config import Config
from jaxlm.data.augment import Augmentation
from jaxlm.data.pipeline import CropTransform, FaceSource, make_augmentation, open_source

CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment whose sources and augmentation are shown.")
OUT = flags.DEFINE_string("out", "sheet.png", "Picture to write.")
COLUMNS = flags.DEFINE_integer("columns", 8, "Faces in a row.")


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
            picture = visualize.draw_landmarks(
                element["image"],
                element["landmarks"],
                source.scheme,
                mask=element["mask"],
                scale=tile / config.image_size,
            )
            tiles.append(visualize.caption(picture, name) if column == 0 else picture)
    return visualize.sheet(tiles, columns)


def main(argv):
    del argv
    quiet_logs()
    with one_sentence():
        config = CONFIG.value
        sources = [open_source(config, name, config.data.sources[name].train_split) for name in config.data.sources]
        visualize.write_image(Path(OUT.value), contact_sheet(sources, config, COLUMNS.value))
        print(f"written: {OUT.value}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)

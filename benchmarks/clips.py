"""Trained LDEQs and the crops of rendered videos that they are measured on."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxlm.data import sources
from jaxlm.data.video_batches import crop_chunks, video_of
from jaxlm.systems.ldeq.network import LDEQ
from jaxlm.systems.ldeq.system import make_model
from jaxlm.workdir import config_file
from jaxlm.workdir.restore import restore_variables


@dataclasses.dataclass(frozen=True)
class Options:
    workdir: str
    """Folder that `jaxlm train` wrote."""
    cache: str = ""
    """Folder of the prepared data; the config's own without it."""
    videos: int = 8
    """Number of videos of each kind."""
    frames: int = 16
    """Frames of each."""
    seed: int = 1
    """Of the videos."""


class Trained(NamedTuple):
    """An LDEQ of a workdir.

    Attributes:
        config: of the workdir, with the options' data.
        model: the network.
        variables: its parameters.
        step: of the checkpoint.
    """

    config: Any
    model: LDEQ
    variables: Any
    step: int

    def cell(self, z: Array, injection: Any) -> Array:
        """The cell f(z, x)."""
        return self.model.cell(z, (self.variables["params"]["cell"], injection))

    def inject(self, images: Any) -> Any:
        """x of a batch of crops."""
        return self.model.inject(self.variables, jnp.asarray(images, jnp.float32))[0]


def load(options: Options) -> Trained:
    """The LDEQ of the options' workdir."""
    config: Any = config_file.load_config(options.workdir)
    config.data.cache = options.cache or config.data.cache
    config.data.sources.rendered_videos.update(num_videos=options.videos, seed=options.seed)
    variables, step = restore_variables(config, options.workdir)
    return Trained(config, make_model(config), variables, step)


def clips(trained: Trained, frames: int) -> Iterator[tuple[str, np.ndarray]]:
    """Split, and crops (B, T, S, S, 3) of its videos' first frames."""
    config = trained.config
    for source in sources.open_videos(config, "rendered_videos"):
        videos = [video_of(record) for record in source.records]
        settings: Any = dict(crop=config.video.crop, size=config.image_size, chunk=frames, min_iou=0.0)
        yield source.split, next(crop_chunks(videos, **settings))["image"]

"""Compares the speed of RwR with frame-wise solving, and of a batch of clips with one clip at a time.

    python -m benchmarks video --workdir=runs/quickstart

The clips are the hard rendered videos of the workdir's config, or those of --data. Frames are decoded and cropped
before the clock starts.
"""

import dataclasses
import functools
from typing import Any

import jax

from benchmarks.table import Table, in_turns
from jaxlm import systems
from jaxlm.data.sources import open_videos
from jaxlm.data.video_batches import crop_chunks, video_of
from jaxlm.workdir.config_file import load_config
from jaxlm.workdir.restore import restore_variables


@dataclasses.dataclass(frozen=True)
class Options:
    workdir: str
    """Folder that `jaxlm train` wrote."""
    data: str = "rendered_videos:hard"
    """Videos to measure, as source:split."""
    videos: int = 8
    """Most videos."""
    rounds: int = 5
    """Turns; medians are printed."""


def main(options: Options, table: Table) -> None:
    config: Any = load_config(options.workdir)
    system = systems.build(config)
    if system.track is None:
        raise ValueError(
            f"The system {config.system!r} has no state to start from, so RwR cannot run: give a workdir of an LDEQ "
            "without model.explicit."
        )
    variables, _ = restore_variables(config, options.workdir)
    if config.solver.tol != config.video.solver.tol:
        raise ValueError("config.solver.tol and config.video.solver.tol must be equal for this comparison.")
    source = open_videos(config, options.data)[0]
    videos = [video_of(source.records[index]) for index in range(min(options.videos, len(source)))]
    frames = min(map(len, videos))
    chunks = crop_chunks(
        videos, crop=config.video.crop, size=config.image_size, chunk=frames, min_iou=config.video.min_iou
    )
    clips = next(chunks)
    run = {name: jax.jit(functools.partial(system.track, name)) for name in ("frame", "rwr")}

    def track(method, first, last):
        part = {key: clips[key][first:last] for key in ("image", "restart", "exists")}
        return jax.block_until_ready(run[method](variables, **part, past=None))

    count = len(videos)
    calls = {
        "one clip, frame-wise": lambda: track("frame", 0, 1),
        "one clip, RwR": lambda: track("rwr", 0, 1),
        "clips one by one, RwR": lambda: [track("rwr", i, i + 1) for i in range(count)],
        "clips in a batch, RwR": lambda: track("rwr", 0, count),
    }
    turns = in_turns(calls, options.rounds)
    table.title(f"{count} clips of {frames} frames, tolerance {config.solver.tol:g}")
    for name in calls:
        other = "one clip, frame-wise" if name.startswith("one") else "clips one by one, RwR"
        clip_count = 1 if name.startswith("one") else count
        table.add(name, {"frames/s": clip_count * frames / turns.median(name), **turns.ratio(name, other)})

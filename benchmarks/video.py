"""Compares the speed of RwR with frame-wise solving, and of a batch of clips with one clip at a time.

    python benchmarks/video.py --workdir=runs/quickstart

The clips are the hard rendered videos of the workdir's config, or those of --data. Frames are decoded and cropped
before the clock starts.
"""

import functools
import time
from typing import Any

import jax
import numpy as np
from absl import app, flags

from jaxlm import systems
from jaxlm.data.sources import open_videos
from jaxlm.data.video_batches import crop_chunks, video_of
from jaxlm.support.program import one_sentence, quiet_logs
from jaxlm.workdir.config_file import load_config
from jaxlm.workdir.restore import restore_variables

WORKDIR = flags.DEFINE_string("workdir", None, "Folder that train.py wrote.", required=True)
DATA = flags.DEFINE_string("data", "rendered_videos:hard", "Videos to measure, as source:split.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Number of interleaved repetitions; the median is reported.")


def main(argv):
    del argv
    quiet_logs()
    with one_sentence():
        compare(WORKDIR.value, DATA.value, ROUNDS.value)


def compare(workdir: str, data: str, rounds: int, count: int = 8) -> None:
    config: Any = load_config(workdir)
    system = systems.build(config)
    if system.track is None:
        raise ValueError(
            f"The system {config.system!r} has no state to start from, so RwR cannot run: give a workdir of an LDEQ "
            "without model.explicit."
        )
    variables, _ = restore_variables(config, workdir)
    if config.solver.tol != config.video.solver.tol:
        raise ValueError("config.solver.tol and config.video.solver.tol must be equal for this comparison.")
    source = open_videos(config, data)[0]
    videos = [video_of(source.records[index]) for index in range(min(count, len(source)))]
    frames = min(map(len, videos))
    chunks = crop_chunks(
        videos, crop=config.video.crop, size=config.image_size, chunk=frames, min_iou=config.video.min_iou
    )
    clips = next(chunks)
    run = {name: jax.jit(functools.partial(system.track, name)) for name in ("frame", "rwr")}

    def track(method, first, last):
        part = {key: clips[key][first:last] for key in ("image", "restart", "exists")}
        return jax.block_until_ready(run[method](variables, **part, past=None))

    cases = {
        "one clip, frame-wise": lambda: track("frame", 0, 1),
        "one clip, RwR": lambda: track("rwr", 0, 1),
        f"{len(videos)} clips one by one, RwR": lambda: [track("rwr", i, i + 1) for i in range(len(videos))],
        f"{len(videos)} clips in a batch, RwR": lambda: track("rwr", 0, len(videos)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    for _ in range(rounds):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - start)
    medians = [float(np.median(values)) for values in seconds.values()]
    for name, median, clip_count in zip(cases, medians, (1, 1, len(videos), len(videos)), strict=True):
        print(f"{name:<32}{clip_count * frames / median:>9.1f} frames a second")
    print(
        f"RwR against frame-wise, same clip and tolerance {config.solver.tol}: {medians[0] / medians[1]:.2f} × as fast"
    )
    print(f"{len(videos)} clips in a batch against one by one: {medians[2] / medians[3]:.2f} × as fast")


if __name__ == "__main__":
    app.run(main)

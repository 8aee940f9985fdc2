"""Speed of a config's training pipeline in augmented crops per second.

    python -m benchmarks pipeline --config=ldeq_faces68 --config.data.root=data

Counts the crops that one consumer receives; it does nothing with them. Target: 300 crops of 256×256 per second on two
cores from real pictures.
"""

import dataclasses
import time

from benchmarks.table import Table
from jaxlm.commands.options import FromConfig, config_of_file
from jaxlm.data.batches import train_batches


@dataclasses.dataclass(frozen=True)
class Options:
    size: int = 256
    """Side of the crops in pixels."""
    seconds: float = 20.0
    """Duration of the count."""
    config: FromConfig = None
    overrides: FromConfig = ()


read_config = config_of_file


def main(options: Options, table: Table) -> None:
    config = options.config
    config.image_size = options.size
    rate = crops_per_second(config, options.seconds)
    table.add(f"crops of {options.size}×{options.size}", {"crops/s": rate, "threads": config.data.threads})


def crops_per_second(config, seconds: float, skipped: int = 20) -> float:
    """Crops a second after the first batches, which are prefetched."""
    batches = iter(train_batches(config))
    for _ in range(skipped):
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += config.train.batch_size
    return count / (time.perf_counter() - start)

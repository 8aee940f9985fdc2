"""Speed of a config's training pipeline in augmented crops per second.

    python benchmarks/pipeline.py --config=configs/ldeq_faces68.py --config.data.root=data

Counts the crops that one consumer receives; it does nothing with them. Target: 300 crops of 256×256 per second on two
cores from real pictures.
"""

import time

from absl import app, flags
from ml_collections import config_flags

from jaxlm.data.batches import train_batches
from jaxlm.support.program import one_sentence, quiet_logs

CONFIG = config_flags.DEFINE_config_file("config", None, "Config of the experiment.")
SIZE = flags.DEFINE_integer("size", 256, "Side of the crops in pixels.")
SECONDS = flags.DEFINE_float("seconds", 20.0, "Duration of the count in seconds.")


def main(argv):
    del argv
    quiet_logs()
    with one_sentence():
        config = CONFIG.value
        config.image_size = SIZE.value
        batches = iter(train_batches(config))
        for _ in range(20):  # skips the prefetched batches
            next(batches)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < SECONDS.value:
            next(batches)
            count += config.train.batch_size
        rate = count / (time.perf_counter() - start)
        print(f"{rate:.0f} crops of {SIZE.value}×{SIZE.value} a second, {config.data.threads} threads")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)

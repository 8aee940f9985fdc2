"""Trains one experiment; a training that was interrupted goes on from its last checkpoint.

jaxlm train --config=quickstart --workdir=runs/quickstart
jaxlm train --config=quickstart:smoke --workdir=runs/smoke --config.train.num_steps=12
"""

import dataclasses

from jaxlm.commands.options import FromConfig, config_of_file
from jaxlm.support.program import join_processes, split_cpu
from jaxlm.training import train

read_config = config_of_file


@dataclasses.dataclass(frozen=True)
class Options:
    workdir: str
    """Folder of checkpoints and logs."""
    distributed: bool = False
    """Join the other processes; the cluster tells which."""
    coordinator: str | None = None
    """host:port of process 0, where no cluster tells."""
    num_processes: int | None = None
    """Number of processes, likewise."""
    process_id: int | None = None
    """Number of this process, likewise."""
    config: FromConfig = None
    overrides: FromConfig = ()


def main(options: Options) -> dict[str, float]:
    """Trains and returns the last validation metrics."""
    if options.distributed:
        join_processes(options.coordinator, options.num_processes, options.process_id)
    split_cpu(options.config.train.cpu_devices)
    metrics = train(options.config, options.workdir)
    print(f"trained: {options.workdir}; evaluate it with jaxlm eval --workdir={options.workdir}")
    return metrics

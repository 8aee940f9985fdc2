"""Trains one experiment: python train.py --config=configs/quickstart.py --workdir=runs/quickstart"""

from absl import app, flags
from ml_collections import config_flags

from jaxlm.support.program import one_sentence, parse_flags, quiet_logs, start_devices
from jaxlm.training import train

CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, configs/<name>.py or configs/<name>.py:smoke.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints and logs; an existing run is continued.", required=True
)
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes; the cluster tells which.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, where no cluster tells.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes, likewise.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, likewise.")


def main(argv):
    del argv
    quiet_logs()
    with one_sentence():
        start_devices(DISTRIBUTED.value, COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        train(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)

"""Evaluates a workdir: python eval.py --workdir=runs/quickstart [--data=own --root=faces.csv --split=train]"""

from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from jaxlm.app import evaluate_workdir, one_sentence, quiet_logs, workdir_config

CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment; the workdir's own where it is not given.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder that train.py wrote.")
DATA = flags.DEFINE_string("data", None, "A source of the config, or a builder (wflw, 300w, own, rendered) with --root.")
ROOT = flags.DEFINE_string("root", None, "The data set's files, for --data naming a builder.")
SPLIT = flags.DEFINE_string("split", None, "Split of --data; a builder's test or, where there is none, train split.")
STEP = flags.DEFINE_integer("step", None, "Checkpoint; the best one where it is not given.")


def main(argv):
    del argv
    quiet_logs()
    with one_sentence():
        overrides = config_flags.get_override_values(FLAGS["config"]) if CONFIG.value else {}
        config = workdir_config(CONFIG.value, overrides, Path(WORKDIR.value))
        evaluate_workdir(config, WORKDIR.value, data=DATA.value, root=ROOT.value, split=SPLIT.value, step=STEP.value)


FLAGS = flags.FLAGS

if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir"])
    app.run(main)

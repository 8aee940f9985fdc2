"""Evaluates a workdir: python eval.py --workdir=runs/quickstart [--data=own:train --root=faces.csv]"""

import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from jaxlm.commands.evaluate import define_workdir_config, evaluate_workdir, workdir_config
from jaxlm.support.program import one_sentence, parse_flags, quiet_logs

CONFIG = define_workdir_config(sys.argv)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder that train.py wrote.", required=True)
DATA = flags.DEFINE_string("data", None, "source[:split] of the config, or of a builder (wflw, 300w, own) with --root.")
ROOT = flags.DEFINE_string("root", None, "The data set's files, for --data naming a builder.")
STEP = flags.DEFINE_string("step", "last", "Checkpoint: last, best (on the first validation set) or its step.")


def main(argv):
    del argv
    quiet_logs()
    with one_sentence():
        overrides = config_flags.get_override_values(flags.FLAGS["config"]) if CONFIG.value else {}
        config = workdir_config(CONFIG.value, overrides, Path(WORKDIR.value))
        evaluate_workdir(config, WORKDIR.value, data=DATA.value, root=ROOT.value, step=STEP.value)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)

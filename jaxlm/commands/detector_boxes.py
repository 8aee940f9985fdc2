"""FIXME How a detector's boxes differ from those around the landmarks: the distribution that training boxes are drawn from."""

from absl import app, flags
from ml_collections import config_flags

from jaxlm.data import sources
from jaxlm.evaluation.detector_boxes import measure
from jaxlm.predict.detectors import HaarDetector
from jaxlm.support.program import one_sentence, parse_flags, quiet_logs


def main(argv):
    del argv
    quiet_logs()
    with one_sentence():
        source = sources.open_set(CONFIG.value, DATA.value)
        found = measure(source, HaarDetector() if DETECTOR.value == "haar" else None, LIMIT.value)
        print(f"{len(found.values)} faces of {source.name}:{source.split}, {found.missed} missed by the detector")
        print(f"--config.augment.box={found.distribution()}")


if __name__ == "__main__":
    CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment whose data is measured.")
    DATA = flags.DEFINE_string("data", None, "source or source:split of config.data.sources.", required=True)
    DETECTOR = flags.DEFINE_enum("detector", "given", ["given", "haar"], "Whose boxes.")
    LIMIT = flags.DEFINE_integer("limit", 0, "About as many faces; 0 for all.")
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)

"""Tables 3 and 4 of Guo et al., ECCV 2020: what each row changes in a config, and the paper's number."""

from jaxlm.systems.tables import Row, Table


def _row(label: str, loss: str, landmarks: str, paper: float) -> Row:
    """A row of Table 3 of Guo et al.: stills alone."""
    return Row(label, {"loss.name": loss, "loss.landmarks": landmarks, "synthesis.mode": "none"}, paper)


def _synthesis(label: str, loss: str, landmarks: str, mode: str, paper: float) -> Row:
    """A row of Table 4; all see as many pictures in a batch."""
    return Row(label, {"loss.name": loss, "loss.landmarks": landmarks, "synthesis.mode": mode}, paper)


TABLES = {
    "tddfa_3": Table(
        "Table 3 of Guo et al., ECCV 2020: the losses (paper: AFLW2000-3D, mean of the yaw bins)",
        "nme",
        {
            "vdc": _row("VDC", "vdc", "none", 5.23),
            "fwpdc": _row("fWPDC", "fwpdc", "none", 4.04),
            "vdc_from_fwpdc": _row("VDC from fWPDC", "vdc_from_fwpdc", "none", 3.88),
            "vanilla_joint": _row("Vanilla-joint", "vanilla_joint", "none", 3.80),
            "meta_joint": _row("Meta-joint", "meta_joint", "none", 3.73),
            "vdc_lrr": _row("VDC w/ lrr", "vdc", "lrr", 3.92),
            "fwpdc_lrr": _row("fWPDC w/ lrr", "fwpdc", "lrr", 3.89),
            "meta_joint_lmk": _row("Meta-joint w/ lmk", "meta_joint", "lmk", 3.71),
            "meta_joint_lrr": _row("Meta-joint w/ lrr", "meta_joint", "lrr", 3.59),
        },
    ),
    "tddfa_4": Table(
        "Table 4 of Guo et al., ECCV 2020: short videos (paper: Menpo-3D; its stability: 0.54, 0.51, 0.52, 0.50, 0.48)",
        "nme",
        {
            "fwpdc_still": _synthesis("fWPDC w/o svs", "fwpdc", "none", "none", 1.96),
            "fwpdc_svs": _synthesis("fWPDC w/ svs", "fwpdc", "none", "video", 1.84),
            "meta_joint_lrr_still": _synthesis("Meta-joint+lrr w/o svs", "meta_joint", "lrr", "none", 1.86),
            "meta_joint_lrr_rnd": _synthesis("Meta-joint+lrr w/ rnd", "meta_joint", "lrr", "random", 1.76),
            "meta_joint_lrr_svs": _synthesis("Meta-joint+lrr w/ svs", "meta_joint", "lrr", "video", 1.71),
        },
    ),
}

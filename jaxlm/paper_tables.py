"""The papers' ablation tables: what each row changes in a config, and the number that the paper prints.

A config file offers the rows as variants (`configs/awing_wflw.py:aw_wm`); `python -m jaxlm.ablation` trains a table.
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxlm.config import Config


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        label: as the paper writes it.
        changes: field of the config -> value; a dict replaces the field whole.
        paper: the paper's number; None where its text has none.
    """

    label: str
    changes: dict[str, Any]
    paper: float | None


class Table(NamedTuple):
    """An ablation.

    Attributes:
        title: what the paper's table shows, on which data.
        metric: field of the evaluation's JSON.
        rows: variant -> row.
    """

    title: str
    metric: str
    rows: dict[str, Row]


def _adaptive_wing(**options: float) -> dict[str, Any]:
    defaults = dict(alpha=2.1, omega=14.0, epsilon=1.0, theta=0.5)
    return {"loss": dict(on="heatmaps", name="adaptive_wing", options=defaults | options)}


_MSE = {"loss": dict(on="heatmaps", name="mse", options={})}
_GT = {"data.crop": "gt"}  # Section 7.6: the ablations on WFLW crop by the ground truth
_TORSO = {"heatmap.weight_map": "none", "data.normalizer": "torso"}
_PARTS = ("boundary", "coordinates", "boundary_coordinates")


def _awing(label: str, loss: dict[str, Any], weight_map: str, parts: int, paper: float) -> Row:
    """A row of Table 7, with the first `parts` of boundary, CoordConv and boundary coordinates."""
    model = {f"model.{part}": number < parts for number, part in enumerate(_PARTS)}
    return Row(label, loss | _GT | {"heatmap.weight_map": weight_map} | model, paper)


_REINIT_L1 = {"loss": dict(on="landmarks", name="l1", options={})}
_REINIT_L2 = {"loss": dict(on="landmarks", name="mse", options={})}
_REINIT_ADAPTIVE = {"loss": dict(on="landmarks", name="adaptive_l1", options=dict(unit=5.0))}


def _reinit(label: str, reinitialize: str, refine: str, paper: float | None, **fields: Any) -> Row:
    """A row of Shao et al.: which stages there are, with the ℓ1 loss unless `fields` says otherwise."""
    stages = {"model.reinitialize": reinitialize, "model.refine": refine}
    return Row(label, _REINIT_L1 | stages | fields, paper)


def _backbones() -> dict[str, Row]:
    """Rows of Table 6; ω keeps the config's own loss."""
    papers = {"small": (5.72, 5.29, 5.17), "medium": (5.02, 4.78, 4.61), "resnet50": (4.35, 4.15, 3.95)}
    rows = {}
    for backbone, (plain, progressive, weighted) in papers.items():
        refine = "none" if backbone == "resnet50" else "network"
        fields = {"model.backbone": backbone}
        rows[backbone] = _reinit(backbone, "none", "none", plain, **fields)
        rows[f"{backbone}_reinit"] = _reinit(
            f"{backbone} + re-initialisation", "network", refine, progressive, **fields
        )
        stages = {"model.reinitialize": "network", "model.refine": refine}
        rows[f"{backbone}_omega"] = Row(f"{backbone} + re-initialisation + weights", fields | stages, weighted)
    return rows


TABLES = {
    "awing_5": Table(
        "Table 5 of Wang et al., ICCV 2019: ω and ε on WFLW",
        "nme",
        {
            f"omega{omega}_epsilon{epsilon:g}": Row(
                f"ω {omega}, ε {epsilon:g}", _adaptive_wing(omega=float(omega), epsilon=epsilon) | _GT, paper
            )
            for epsilon, papers in (
                (0.5, (4.28, 4.25, 4.24, 4.28, 4.29)),
                (1.0, (4.24, 4.26, 4.21, 4.22, 4.26)),
                (2.0, (4.23, 4.27, 4.26, 4.28, 4.30)),
            )
            for omega, paper in zip((10, 12, 14, 16, 18), papers, strict=True)
        },
    ),
    "awing_6": Table(
        "Table 6 of Wang et al., ICCV 2019: θ on WFLW",
        "nme",
        {
            f"theta{theta}": Row(f"θ {theta}", _adaptive_wing(theta=theta) | _GT, paper)
            for theta, paper in zip((0.3, 0.4, 0.5, 0.6, 0.7), (4.25, 4.22, 4.21, 4.26, 4.23), strict=True)
        },
    ),
    "awing_7": Table(
        "Table 7 of Wang et al., ICCV 2019: the parts of the method on WFLW",
        "nme",
        {
            "mse": _awing("MSE", _MSE, "none", 0, 5.39),
            "mse_wm": _awing("MSE+WM", _MSE, "dilated", 0, 5.04),
            "aw": _awing("AW", _adaptive_wing(), "none", 0, 4.65),
            "aw_wm_base": _awing("AW+WM_base", _adaptive_wing(), "baseline", 0, 4.49),
            "aw_wm": _awing("AW+WM", _adaptive_wing(), "dilated", 0, 4.30),
            "aw_wm_b": _awing("AW+WM+B", _adaptive_wing(), "dilated", 1, 4.28),
            "aw_wm_b_c": _awing("AW+WM+B+C", _adaptive_wing(), "dilated", 2, 4.26),
            "aw_wm_b_c_cb": _awing("AW+WM+B+C+CB", _adaptive_wing(), "dilated", 3, 4.21),
        },
    ),
    "awing_8": Table(
        "Table 8 of Wang et al., ICCV 2019: mean PCK@0.2 on LSP",
        "pck20",
        {
            "mse": Row("4HG+MSE", _MSE | _TORSO, 81.8),
            "aw": Row("4HG+AW", _adaptive_wing() | _TORSO, 85.9),
        },
    ),
    "reinit_1": Table(
        "Table 1 of Shao et al., TPAMI 2021: annotations moved by up to δ of 256 pixels (paper: inter-pupil, 300-W)",
        "nme",
        {
            f"noise{delta}": _reinit(f"δ {delta}", "none", "none", paper, **{"augment.label_noise": float(delta)})
            for delta, paper in ((0, 5.57), (3, 5.62), (5, 5.63), (10, 6.00))
        },
    ),
    "reinit_5": Table(
        "Tables 3 and 5 of Shao et al., TPAMI 2021: the stages (paper: inter-pupil, 300-W)",
        "nme",
        {
            "b1": _reinit("B1", "none", "none", 5.72),
            "b2": _reinit("B2", "shape", "none", 5.63),
            "gsr": _reinit("GSR", "network", "none", 5.52),
            "glsr_star": _reinit("G&LSR*", "network", "box", 5.39),
            "glsr": _reinit("G&LSR", "network", "network", 5.29),
        },
    ),
    "reinit_loss": Table(
        "Section 4.2.2 of Shao et al., TPAMI 2021: the loss of B1 (paper: inter-pupil, 300-W)",
        "nme",
        {
            "l2": _reinit("ℓ2", "none", "none", None, **_REINIT_L2),
            "l1": _reinit("ℓ1", "none", "none", 5.72),
            # "About 6.7 % reductions" of ℓ1's NME; the plots' own numbers are not in the text.
            "adaptive": _reinit("adaptive", "none", "none", 5.34, **_REINIT_ADAPTIVE),
        },
    ),
    "reinit_6": Table("Table 6 of Shao et al., TPAMI 2021: backbones (paper: inter-pupil, 300-W)", "nme", _backbones()),
}


def _tddfa(label: str, loss: str, landmarks: str, paper: float) -> Row:
    """A row of Table 3 of Guo et al.: stills alone."""
    return Row(label, {"loss.name": loss, "loss.landmarks": landmarks, "synthesis.mode": "none"}, paper)


def _synthesis(label: str, loss: str, landmarks: str, mode: str, paper: float) -> Row:
    """A row of Table 4; all see as many pictures in a batch."""
    return Row(label, {"loss.name": loss, "loss.landmarks": landmarks, "synthesis.mode": mode}, paper)


TABLES["tddfa_3"] = Table(
    "Table 3 of Guo et al., ECCV 2020: the losses (paper: AFLW2000-3D, mean of the yaw bins)",
    "nme",
    {
        "vdc": _tddfa("VDC", "vdc", "none", 5.23),
        "fwpdc": _tddfa("fWPDC", "fwpdc", "none", 4.04),
        "vdc_from_fwpdc": _tddfa("VDC from fWPDC", "vdc_from_fwpdc", "none", 3.88),
        "vanilla_joint": _tddfa("Vanilla-joint", "vanilla_joint", "none", 3.80),
        "meta_joint": _tddfa("Meta-joint", "meta_joint", "none", 3.73),
        "vdc_lrr": _tddfa("VDC w/ lrr", "vdc", "lrr", 3.92),
        "fwpdc_lrr": _tddfa("fWPDC w/ lrr", "fwpdc", "lrr", 3.89),
        "meta_joint_lmk": _tddfa("Meta-joint w/ lmk", "meta_joint", "lmk", 3.71),
        "meta_joint_lrr": _tddfa("Meta-joint w/ lrr", "meta_joint", "lrr", 3.59),
    },
)
TABLES["tddfa_4"] = Table(
    "Table 4 of Guo et al., ECCV 2020: short videos (paper: Menpo-3D; its stability: 0.54, 0.51, 0.52, 0.50, 0.48)",
    "nme",
    {
        "fwpdc_still": _synthesis("fWPDC w/o svs", "fwpdc", "none", "none", 1.96),
        "fwpdc_svs": _synthesis("fWPDC w/ svs", "fwpdc", "none", "video", 1.84),
        "meta_joint_lrr_still": _synthesis("Meta-joint+lrr w/o svs", "meta_joint", "lrr", "none", 1.86),
        "meta_joint_lrr_rnd": _synthesis("Meta-joint+lrr w/ rnd", "meta_joint", "lrr", "random", 1.76),
        "meta_joint_lrr_svs": _synthesis("Meta-joint+lrr w/ svs", "meta_joint", "lrr", "video", 1.71),
    },
)
TDDFA = ("tddfa_3", "tddfa_4")
REINIT = ("reinit_1", "reinit_5", "reinit_loss", "reinit_6")


def apply_variant(config: Config, variant: str, tables: tuple[str, ...], others: tuple[str, ...] = ()) -> None:
    """Changes `config` to the row `variant` of one of `tables`.

    Args:
        config: with the fields that the row changes.
        variant: name of a row.
        tables: keys of `TABLES`.
        others: further variants that the config file has, for the message.

    Raises:
        ValueError: naming the variants that exist, or the field that the config does not have.
    """
    rows = {name: row for table in tables for name, row in TABLES[table].rows.items()}
    if variant not in rows:
        raise ValueError(f"There is no variant {variant!r}; choose one of {', '.join([*others, *rows])}.")
    for field, value in rows[variant].changes.items():
        *parents, name = field.split(".")
        place: Any = config
        for parent in parents:
            place = place[parent] if parent in place else ConfigDict()
        if name not in place:
            raise ValueError(
                f"The row {variant!r} changes {field}, which this config of {config.system!r} does not have."
            )
        place[name] = ConfigDict(value) if isinstance(value, dict) else value

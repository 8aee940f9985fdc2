"""Tables 5 to 8 of Wang et al., ICCV 2019: what each row changes in a config, and the paper's number."""

from typing import Any

from jaxlm.systems.tables import Row, Table


def _adaptive_wing(**options: float) -> dict[str, Any]:
    defaults = dict(alpha=2.1, omega=14.0, epsilon=1.0, theta=0.5)
    return {"loss": dict(on="heatmaps", name="adaptive_wing", options=defaults | options)}


_MSE = {"loss": dict(on="heatmaps", name="mse", options={})}


_GT = {"data.crop": "gt"}  # Section 7.6: the ablations on WFLW crop by the ground truth


_TORSO = {"heatmap.weight_map": "none", "data.normalizer": "torso"}


_PARTS = ("boundary", "coordinates", "boundary_coordinates")


def _row(label: str, loss: dict[str, Any], weight_map: str, parts: int, paper: float) -> Row:
    """A row of Table 7, with the first `parts` of boundary, CoordConv and boundary coordinates."""
    model = {f"model.{part}": number < parts for number, part in enumerate(_PARTS)}
    return Row(label, loss | _GT | {"heatmap.weight_map": weight_map} | model, paper)


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
            "mse": _row("MSE", _MSE, "none", 0, 5.39),
            "mse_wm": _row("MSE+WM", _MSE, "dilated", 0, 5.04),
            "aw": _row("AW", _adaptive_wing(), "none", 0, 4.65),
            "aw_wm_base": _row("AW+WM_base", _adaptive_wing(), "baseline", 0, 4.49),
            "aw_wm": _row("AW+WM", _adaptive_wing(), "dilated", 0, 4.30),
            "aw_wm_b": _row("AW+WM+B", _adaptive_wing(), "dilated", 1, 4.28),
            "aw_wm_b_c": _row("AW+WM+B+C", _adaptive_wing(), "dilated", 2, 4.26),
            "aw_wm_b_c_cb": _row("AW+WM+B+C+CB", _adaptive_wing(), "dilated", 3, 4.21),
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
}

# On faces, and on bodies: rows of the last table have names of the others.
FACES = {name: TABLES[name] for name in ("awing_5", "awing_6", "awing_7")}
BODIES = {"awing_8": TABLES["awing_8"]}

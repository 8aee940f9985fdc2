"""Comparisons that Micaelli et al., CVPR 2023, imply without a table: gradients, stacked cells, the temperature."""

from typing import Any

from jaxlm.systems.tables import Row, Table

_SOLVED = {"solver.name": "anderson", "solver.max_steps": 15, "solver.tol": 5e-3}
_ADJOINT = {"adjoint.name": "anderson", "adjoint.max_steps": 15, "adjoint.tol": 5e-3}
_FEW = {"solver.name": "fixed_point_iteration", "solver.tol": 5e-3}


def _row(label: str, gradient: str, **fields: Any) -> Row:
    return Row(label, {"gradient": gradient, **fields}, None)


def _explicit(label: str, **fields: Any) -> Row:
    return Row(label, {"model.explicit": True, "solver.max_steps": 3, **fields}, None)


def _temperature(value: float) -> Row:
    return _row(f"T = {value:g}", "jacobian_free", **_SOLVED, **{"model.temperature": value})


TABLES = {
    "ldeq_gradient": Table(
        "Gradients of the equilibrium, and explicit networks of its size (no such table in Micaelli et al., CVPR 2023)",
        "nme",
        {
            "implicit": _row("implicit, Anderson to the tolerance", "implicit", **_SOLVED, **_ADJOINT),
            "jacobian_free": _row("Jacobian-free, Anderson to the tolerance", "jacobian_free", **_SOLVED),
            "phantom": _row("phantom, Anderson to the tolerance", "phantom", **_SOLVED),
            "few_steps": _row("Jacobian-free, 2 plain steps", "jacobian_free", **_FEW, **{"solver.max_steps": 2}),
            "unrolled": _row("unrolled, 2 plain steps", "unrolled", **_FEW, **{"solver.max_steps": 2}),
            "tied": _explicit("explicit, 3 applications of one cell"),
            "untied": _explicit("explicit, 3 narrower cells", **{"model.preset": "slim", "model.untied": True}),
        },
    ),
    "ldeq_temperature": Table(
        "Temperature T of Eq. 3 (Micaelli et al., CVPR 2023, take 2.5 and print no other)",
        "nme",
        {
            "t2_5": _temperature(2.5),
            "t1": _temperature(1.0),
            "t5": _temperature(5.0),
        },
    ),
}

"""Face alignment in JAX: fixed points and their gradients, landmark models, and what trains and evaluates them."""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from jaxlm.implicit import equilibrium, jacobian_regularization, spectral_radius
from jaxlm.solvers import SolverStats, anderson, broyden, fixed_point_iteration

if TYPE_CHECKING:
    from jaxlm.predict.model import load_model
    from jaxlm.predict.predictor import Face, Predictor

__all__ = [
    "Face",
    "Predictor",
    "SolverStats",
    "__version__",
    "anderson",
    "broyden",
    "equilibrium",
    "fixed_point_iteration",
    "jacobian_regularization",
    "load_model",
    "spectral_radius",
]

try:
    __version__ = importlib.metadata.version("jaxlm")
except importlib.metadata.PackageNotFoundError:  # a folder on the path that was not installed
    __version__ = "0+unknown"

# Imported on demand: a solver alone needs neither data sets nor OpenCV.
_ON_DEMAND = {"Face": "predictor", "Predictor": "predictor", "load_model": "model"}


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return getattr(importlib.import_module(f"jaxlm.predict.{_ON_DEMAND[name]}"), name)
    raise AttributeError(f"module 'jaxlm' has no attribute {name!r}")

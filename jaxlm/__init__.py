"""Face alignment in JAX: fixed points and their gradients, landmark models, training and evaluation."""

from jaxlm.implicit import equilibrium, jacobian_regularization, spectral_radius
from jaxlm.solvers import SolverStats, anderson, broyden, fixed_point_iteration

__all__ = [
    "SolverStats",
    "anderson",
    "broyden",
    "equilibrium",
    "fixed_point_iteration",
    "jacobian_regularization",
    "spectral_radius",
]

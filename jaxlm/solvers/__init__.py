"""Fixed-point solvers: find z with fun(z) = z, for a batch of independent samples, in one `lax.while_loop`.

Every solver has the signature `(fun, z0, *, tol, max_steps, ...) -> (z, SolverStats)`. The state `z0` is an array or
a pytree whose leaves share a leading batch axis; `fun` maps such a state to one of the same shapes and treats its
samples independently. One step is one evaluation of `fun`. A sample stops when its residual meets the tolerance or is
no longer finite, and is frozen from then on; the loop ends when every sample has stopped.

The solvers return the best iterate of each sample, that of the smallest ‖f(z) − z‖ or the one that met the tolerance;
`SolverStats.residual` is its measured residual. They define no gradient of their own (see `jaxlm.implicit`).
`differentiable=True` replaces the loop by a `lax.scan` over all `max_steps`, which gives the same numbers and supports
derivatives. It evaluates `fun` also after the last sample has stopped, and it is unrolled if it has few steps.

`gmres` is for maps that are affine in z, such as the adjoint of an equilibrium.
"""

from jaxlm.solvers.acceleration import anderson
from jaxlm.solvers.iteration import fixed_point_iteration
from jaxlm.solvers.krylov import gmres
from jaxlm.solvers.loop import FEW_STEPS, SolverStats
from jaxlm.solvers.quasi_newton import broyden

__all__ = ["FEW_STEPS", "SolverStats", "anderson", "broyden", "fixed_point_iteration", "gmres"]

"""One rule per solver spec, each on flat vectors: rule(spec, system) -> Solve."""

from nestgrad_torch._solvers import (  # noqa: F401  (each fills the table)
    bicgstab,
    cg,
    dense,
    gmres,
    identity,
    lsmr,
    minres,
    neumann,
    normal_cg,
    nystrom,
    random_neumann,
)
from nestgrad_torch._solvers._common import SOLVERS as SOLVERS
from nestgrad_torch._solvers._common import Deferred as Deferred
from nestgrad_torch._solvers._common import Ending as Ending
from nestgrad_torch._solvers._common import Solve as Solve
from nestgrad_torch._solvers._common import System as System

"""One rule per method spec."""

from nestgrad_torch._rules import (  # noqa: F401  (each fills the table)
    bome,
    darts,
    implicit,
    penalty,
    pes,
    responses,
    sama,
    unrolled,
)
from nestgrad_torch._rules._call import METHODS as METHODS
from nestgrad_torch._rules._call import Call as Call

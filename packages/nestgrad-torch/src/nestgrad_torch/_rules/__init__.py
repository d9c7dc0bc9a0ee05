"""One rule per method spec."""

from nestgrad_torch._rules import implicit, pes, unrolled  # noqa: F401  (each fills the table)
from nestgrad_torch._rules._call import METHODS as METHODS
from nestgrad_torch._rules._call import Call as Call

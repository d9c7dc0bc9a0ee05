"""One rule per method spec."""

from nestgrad_torch._rules import implicit  # noqa: F401  (fills the table)
from nestgrad_torch._rules._call import METHODS as METHODS
from nestgrad_torch._rules._call import Call as Call

"""What solvers with a tolerance have in common."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._validate import require_count, require_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Iterative:
    """At most max_steps steps, ending when the residual is at most max(rtol·|v|, atol).

    The status rests on the recomputed residual |Jᵀp - v|. With rtol = atol = 0 the number defined is the max_steps-th
    iterate itself (or the solution where that comes sooner) and the status TRUNCATED. A warm start is where the steps
    begin; for v = 0 the answer is 0 all the same.
    """

    rtol: float
    atol: float = 0.0
    max_steps: int

    def __post_init__(self) -> None:
        require_number(self, "rtol", positive=False)
        require_number(self, "atol", positive=False)
        require_count(self, "max_steps", 1)

    @property
    def truncated(self) -> bool:
        """Whether no tolerance is set, so that the iterate itself is the definition."""
        return self.rtol == 0.0 and self.atol == 0.0

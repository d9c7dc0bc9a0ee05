"""The generalised minimum residual method."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._solvers._iterative import Iterative
from nestgrad._validate import require_count


@dataclass(frozen=True, slots=True, kw_only=True)
class GMRES(Iterative):
    """GMRES for any non-singular J: the k-th iterate is argmin |Jᵀp - v| over span{v, Jᵀv, …, (Jᵀ)ᵏ⁻¹v}.

    One product a step, and as many stored vectors as steps; restart=r starts again from the current iterate every r
    steps, which bounds the vectors by r and may slow it down or halt it. A preconditioner P acts from the right
    (Jᵀ P y = v, p = P y), so the residual stays the true one.
    Statuses: MAX_STEPS_REACHED, STAGNATED, SINGULAR, NONFINITE. (Saad and Schultz 1986.)
    """

    restart: int | None = None

    def __post_init__(self) -> None:
        Iterative.__post_init__(self)
        if self.restart is not None:
            require_count(self, "restart", 1)

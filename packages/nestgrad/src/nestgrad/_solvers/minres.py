"""The minimum residual method."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._solvers._iterative import Iterative


@dataclass(frozen=True, slots=True, kw_only=True)
class MINRES(Iterative):
    """Minimum residuals for a symmetric J, definite or not: the k-th iterate is argmin |Jp - v| over span{v, …, Jᵏ⁻¹v}.

    The residual never grows. On a WeightUpdate it repairs one rate a parameter as CG does.
    Statuses: MAX_STEPS_REACHED, STAGNATED, SINGULAR, NOT_SYMMETRIC, NONFINITE. (Paige and Saunders 1975.)
    """

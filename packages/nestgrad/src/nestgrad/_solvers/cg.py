"""Conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._validate import require_count, require_number


@dataclass(frozen=True, slots=True, kw_only=True)
class CG:
    """Conjugate gradients from p = 0 for a symmetric positive definite J.

    Stops when |Jp - v| ≤ max(rtol·|v|, atol); the status rests on the recomputed residual, which costs one product.
    With rtol = atol = 0 it is exactly the max_steps-th Krylov iterate, argmin ½pᵀJp - vᵀp over span{v, …, Jᵏ⁻¹v} with
    k = max_steps, or the solution where that comes sooner, and the status is TRUNCATED.
    Statuses: MAX_STEPS_REACHED, STAGNATED, INDEFINITE, SINGULAR, NOT_SYMMETRIC, NONFINITE. (Hestenes and Stiefel 1952.)
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

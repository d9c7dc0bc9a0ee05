"""Conjugate gradients on the normal equations."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._solvers._iterative import Iterative


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalCG(Iterative):
    """Conjugate gradients on J Jᵀ p = J v, for any J: the k-th iterate is argmin |Jᵀp - v| over Krylov(J Jᵀ, J v).

    Two products a step, one with J and one with its transpose; the condition number counts squared.
    Statuses: MAX_STEPS_REACHED, STAGNATED, SINGULAR, NONFINITE. (Hestenes and Stiefel 1952, sec. 10.)
    """

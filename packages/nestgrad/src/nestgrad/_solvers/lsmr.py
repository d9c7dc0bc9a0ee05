"""Least squares by the Golub-Kahan process, with monotone normal residual."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._solvers._iterative import Iterative


@dataclass(frozen=True, slots=True, kw_only=True)
class LSMR(Iterative):
    """LSMR for any J: the k-th iterate is argmin |J(Jᵀp - v)| over Krylov(J Jᵀ, J v), of rank k.

    Two products a step. Where J is singular it tends to the solution of least norm among those of least residual, and
    the status is CONVERGED only when the residual itself is within the tolerance.
    Statuses: MAX_STEPS_REACHED, STAGNATED, SINGULAR, NONFINITE. (Fong and Saunders 2011.)
    """

"""Conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._solvers._iterative import Iterative


@dataclass(frozen=True, slots=True, kw_only=True)
class CG(Iterative):
    """Conjugate gradients for a symmetric positive definite J, from p = 0 or the warm start.

    With rtol = atol = 0 it is exactly the max_steps-th Krylov iterate, argmin ½pᵀJp - vᵀp over span{v, …, Jᵏ⁻¹v} with
    k = max_steps. A preconditioner P (positive diagonal) changes the iterates, not the solution.

    A WeightUpdate whose optimizer works entry by entry has J = P M with P = ∂u/∂(gradient) a diagonal and M symmetric,
    as with one learning rate a parameter; there CG solves M q = v and returns p = P⁻¹ q, which is Jᵀp = v exactly.
    Statuses: MAX_STEPS_REACHED, STAGNATED, INDEFINITE, SINGULAR, NOT_SYMMETRIC, NONFINITE. (Hestenes and Stiefel 1952.)
    """

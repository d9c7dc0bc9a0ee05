"""The stabilised bi-conjugate gradient method."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._solvers._iterative import Iterative


@dataclass(frozen=True, slots=True, kw_only=True)
class BiCGSTAB(Iterative):
    """BiCGSTAB for any J, two products with Jᵀ a step, seven vectors whatever the steps; shadow residual r̂ = r₀.

    With rtol = atol = 0 it is the max_steps-th iterate of the recurrence in van der Vorst 1992, sec. 3. A
    preconditioner P acts from the right. The recurrence may break down, when |r̂ᵀr| or |ω| is at rounding.
    Statuses: MAX_STEPS_REACHED, STAGNATED, BREAKDOWN, NONFINITE.
    """

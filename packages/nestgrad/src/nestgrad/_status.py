"""How a numerical routine ended: one enumeration for every solver and backend."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """How a solve ended; an integer, so that it fits in a traced or jitted result."""

    CONVERGED = 0
    TRUNCATED = 1
    IDLE = 2
    MAX_STEPS_REACHED = 3
    STAGNATED = 4
    DIVERGED = 5
    INDEFINITE = 6
    NOT_SYMMETRIC = 7
    SINGULAR = 8
    NONFINITE = 9
    INNER_NOT_CONVERGED = 10
    BREAKDOWN = 11
    NEAR_KINK = 12

    @property
    def ok(self) -> bool:
        """Whether the number returned is the one that the spec defines."""
        return self <= Status.IDLE

    @property
    def meaning(self) -> str:
        """One sentence on what happened and what commonly causes it."""
        return _MEANING[self]


_MEANING = {
    Status.CONVERGED: "the recomputed residual is within the tolerance",
    Status.TRUNCATED: "exactly the terms or steps that the spec asks for were taken; no tolerance was set",
    Status.IDLE: "no hypergradient was due on this training step",
    Status.MAX_STEPS_REACHED: "the recomputed residual is still above the tolerance after max_steps steps",
    Status.STAGNATED: "the residual cannot fall further in this precision, and is still above the tolerance",
    Status.DIVERGED: "the terms of the series grow: the spectral radius of I - step_size * J exceeds 1",
    Status.INDEFINITE: "a direction of negative curvature was met: params are at no strict minimum of the inner loss",
    Status.NOT_SYMMETRIC: "the Jacobian is not symmetric, as with one learning rate per parameter",
    Status.SINGULAR: "the Jacobian is singular to working precision: the response of params is not unique",
    Status.NONFINITE: "a NaN or an infinity appeared",
    Status.INNER_NOT_CONVERGED: "the inner residual at these params exceeds inner_tol",
    Status.BREAKDOWN: "the recurrence divided by a number at rounding, and the residual is above the tolerance",
    Status.NEAR_KINK: "a coordinate lies at the edge of its active set, where the derivative is one-sided",
}

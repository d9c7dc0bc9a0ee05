"""The identity stand-in for the inverse Jacobian."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._validate import require_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """p = scale · v: no product at all. With a WeightUpdate and scale 1 it is one-step differentiation, T1-T2.

    Equals Neumann(num_terms=1, step_size=scale). Status TRUNCATED. (Luketina et al. 2016.)
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        require_number(self, "scale", positive=True)

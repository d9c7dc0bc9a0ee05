"""The exact solver."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._validate import require_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """Materialise J and solve by LU: p = J⁻ᵀ v. Any non-singular J.

    Costs n products and n² numbers for n weights; more than `max_params` weights raise InvalidInput. Status SINGULAR
    when the reciprocal condition number is below n times the machine epsilon.
    """

    max_params: int = 10_000

    def __post_init__(self) -> None:
        require_count(self, "max_params", 1)

"""The fully first-order penalty method."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._validate import require_count, require_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Penalty:
    """total = ∂_λ L_out(y) + σ [∂_λ L_in(y) - ∂_λ L_in(w)], y near argmin L_out + σ L_in, w = the params given.

    y is what num_steps steps of gradient descent y ← y - step_size · ∇_w[L_out + σ L_in](y, λ) from y = w give;
    σ = multiplier. direct is the first term, indirect the rest. First-order only; with y a minimiser and w* the inner
    solution the error is O(1/σ), and the descent needs step_size below 2 / (L + σ L'). params of the result is y.
    Inner problem: Minimize. Status TRUNCATED, or NONFINITE. (Kwon et al. 2023, eq. 4.)
    """

    multiplier: float
    num_steps: int
    step_size: float

    def __post_init__(self) -> None:
        require_number(self, "multiplier", positive=True)
        require_count(self, "num_steps", 1)
        require_number(self, "step_size", positive=True)

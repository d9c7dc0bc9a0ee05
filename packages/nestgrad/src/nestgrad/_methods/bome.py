"""The dynamic barrier of the value function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nestgrad._validate import require_choice, require_count, require_number


@dataclass(frozen=True, slots=True, kw_only=True)
class BOME:
    """A descent direction δ = ∇L_out + μ ∇q in (w, λ) jointly, first-order only; total is its part in λ.

    q(w, λ) = L_in(w, λ) - L_in(ŵ, λ), ŵ = what num_steps gradient steps of step_size on L_in from the params w give,
    held constant: ∇q = (∇_w L_in(w), ∂_λ L_in(w) - ∂_λ L_in(ŵ)). μ = max(0, control · φ - ⟨∇L_out, ∇q⟩) / |∇q|²,
    inner products over (w, λ) together, φ = |∇q|² (barrier "norm") or q (barrier "value"); μ = 0 where ∇q = 0.
    direct = ∂_λ L_out, indirect = μ ∂_λ q, adjoint = δ's part in w, along which w itself is meant to move; params = ŵ.
    Inner problem: Minimize. Status TRUNCATED or NONFINITE. (Ye et al. 2022, eq. 6 and 7.)
    """

    num_steps: int
    step_size: float
    control: float = 0.5
    barrier: Literal["norm", "value"] = "norm"

    def __post_init__(self) -> None:
        require_count(self, "num_steps", 1)
        require_number(self, "step_size", positive=True)
        require_number(self, "control", positive=True)
        require_choice(self, "barrier", ("norm", "value"))

"""The second-order DARTS step by finite differences."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._validate import require_number


@dataclass(frozen=True, slots=True, kw_only=True)
class DARTS:
    """One virtual step, its mixed product by a central difference: three gradients of L_in, one of L_out, no second.

    w' = w - ξ ∇_w L_in(w, λ), v = ∂L_out/∂w at w', direct = ∂L_out/∂λ at w', ε = radius / |v|,
    indirect = -ξ [∇_λ L_in(w + εv, λ) - ∇_λ L_in(w - εv, λ)] / 2ε; ξ = step_size. A zero v gives indirect = 0.

    Exact where ∇_λ L_in is quadratic in w, as with a weight decay: then it is Unrolled(num_steps=1) on SGD with rate ξ;
    elsewhere it differs by O(ε²). params of the result is w', adjoint is v. Inner problem: Minimize. Status TRUNCATED
    or NONFINITE. (Liu, Simonyan and Yang 2019, eq. 7 and 8.)
    """

    step_size: float
    radius: float = 0.01

    def __post_init__(self) -> None:
        require_number(self, "step_size", positive=True)
        require_number(self, "radius", positive=True)

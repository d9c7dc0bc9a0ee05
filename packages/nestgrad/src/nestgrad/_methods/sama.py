"""Identity inverse, preconditioned by the optimizer, with a finite difference."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._validate import require_number


@dataclass(frozen=True, slots=True, kw_only=True)
class SAMA:
    """v = (∂u/∂g)ᵀ ∂L_out/∂w at the params given, u the weight update as a function of the gradient g alone;
    ε = radius / |v|, indirect = -[∇_λ L_in(w + εv, λ) - ∇_λ L_in(w - εv, λ)] / 2ε.

    Hyperparameters act through the losses only: one that acts through nothing but the optimizer raises
    DisconnectedHyperparameter, and what another does there is left out. With plain SGD of rate ξ, v = ξ ∂L_out/∂w. A
    zero v gives indirect = 0; adjoint is v. Inner problem: WeightUpdate. Status TRUNCATED or NONFINITE.
    (Choe et al. 2023, eq. 4 and 5.)
    """

    radius: float = 0.01

    def __post_init__(self) -> None:
        require_number(self, "radius", positive=True)

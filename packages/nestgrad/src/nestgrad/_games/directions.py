"""What players of a game descend: their gradients, or these corrected for what the others will do.

ξ = ĝ(ω), Ĝ the game Jacobian, H_o its blocks off the diagonal, χ_i = Σ_{j≠i} ∂/∂ω_i [ stop(∂L_i/∂ω_j) · ∂L_j/∂ω_j ].
Each direction is subtracted, by whatever optimizer, as a gradient is.
"""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._validate import require_count, require_number


@dataclass(frozen=True, slots=True)
class Simultaneous:
    """ξ: each player's own gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extragradient:
    """ĝ(ω - step_size ξ): the gradients where all would be after a step (Korpelevich 1976)."""

    step_size: float

    def __post_init__(self) -> None:
        require_number(self, "step_size", positive=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consensus:
    """ξ + weight Ĝᵀξ: also down ½|ξ|² (Mescheder et al. 2017)."""

    weight: float

    def __post_init__(self) -> None:
        require_number(self, "weight", positive=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SymplecticAdjustment:
    """ξ + s Aᵀξ, A = (Ĝ - Ĝᵀ)/2: against the rotation alone (Balduzzi et al. 2018).

    s = weight; with align, s = weight · sign(⟨ξ, Ĝᵀξ⟩⟨Aᵀξ, Ĝᵀξ⟩ / n + 0.1), n the number of entries of ω, which draws
    towards stable points and drives from unstable ones.
    """

    weight: float = 1.0
    align: bool = True

    def __post_init__(self) -> None:
        require_number(self, "weight", positive=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAhead:
    """ξ - look_ahead H_o ξ: each player's gradient where the others would be after a step that it takes as given.

    (Zhang and Lesser 2010, as in Letcher et al. 2019.)
    """

    look_ahead: float

    def __post_init__(self) -> None:
        require_number(self, "look_ahead", positive=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LOLA:
    """∂/∂ω_i of L_i(ω_i, ω_j - look_ahead ∂L_j/∂ω_j for all j ≠ i), also through the others' step, which it shapes.

    first_order: of L_i - look_ahead Σ_{j≠i} (∂L_i/∂ω_j)ᵀ ∂L_j/∂ω_j instead, which is ξ - look_ahead (H_o ξ + χ).
    (Foerster et al. 2018.)
    """

    look_ahead: float
    first_order: bool = False

    def __post_init__(self) -> None:
        require_number(self, "look_ahead", positive=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SOS:
    """ξ₀ - p look_ahead χ, ξ₀ = ξ - look_ahead H_o ξ: shaping as far as it does no harm (Letcher et al. 2019, alg. 1).

    p = min(p₁, p₂). With c = ⟨-look_ahead χ, ξ₀⟩: p₁ = 1 where c ≥ 0, else min(1, -a |ξ₀|² / c). p₂ = |ξ|² where
    |ξ| < b, else 1.
    """

    look_ahead: float
    a: float = 0.5
    b: float = 0.1

    def __post_init__(self) -> None:
        require_number(self, "look_ahead", positive=False)
        require_number(self, "a", positive=True)
        require_number(self, "b", positive=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompetitiveGradient:
    """(I + step_size H_o)⁻¹ ξ: the step of the game's own bilinear model, by GMRES (Schäfer and Anandkumar 2019).

    Stops at a residual of rtol |ξ|, after max_steps products at the most.
    """

    step_size: float
    rtol: float = 1e-6
    max_steps: int = 100

    def __post_init__(self) -> None:
        require_number(self, "step_size", positive=True)
        require_number(self, "rtol", positive=True)
        require_count(self, "max_steps", 1)


Direction = (
    Simultaneous | Extragradient | Consensus | SymplecticAdjustment | LookAhead | LOLA | SOS | CompetitiveGradient
)
"""Any of them."""

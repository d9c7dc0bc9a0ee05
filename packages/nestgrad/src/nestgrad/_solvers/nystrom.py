"""The Nyström approximation of the inverse Hessian."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._validate import require_count, require_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Nystrom:
    """p = (H_k + ρI)⁻¹ v with H_k = C M⁺ Cᵀ: C = `rank` columns of the Hessian drawn by the key, M their own rows.

    p = v/ρ - C (M + CᵀC/ρ)⁻¹ Cᵀ v / ρ², ρ = damping. Symmetric J only; `rank` products; the columns are distinct and
    uniform, drawn by the call's key. With rank = n it is (J + ρI)⁻¹v; it is never J⁻¹v. Status TRUNCATED, or NONFINITE;
    more columns than weights raise InvalidInput. (Hataya and Yamada 2023, eq. 5.)
    """

    rank: int
    damping: float

    def __post_init__(self) -> None:
        require_count(self, "rank", 1)
        require_number(self, "damping", positive=True)

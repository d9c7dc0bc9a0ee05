"""The truncated Neumann series."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._validate import require_count, require_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Neumann:
    """Truncated Neumann series of exactly num_terms terms: p = a · Σ_{j=0}^{num_terms-1} (I - a Jᵀ)ʲ v, a = step_size.

    num_terms = 1 is a·v and takes no product; k terms take k - 1. Any J; converges to J⁻ᵀv as num_terms grows exactly
    when every eigenvalue of I - aJ is inside the unit circle. Clarke et al.'s look-back i is num_terms = i with
    step_size = 1 on a WeightUpdate. (Lorraine, Vicol and Duvenaud 2020; Clarke et al. 2022, eq. 6.)

    A preconditioner P (a diagonal) makes it the series of the residual P F: p = Σ_j (I - a P Jᵀ)ʲ a P v, with the terms
    t_j = (I - a Jᵀ P)ʲ v in what follows, and J P never counts as symmetric.

    Status TRUNCATED, NONFINITE, or DIVERGED. With t_j the j-th term, DIVERGED means |t_{k-1}| / |t_{k-2}| >
    GROWTH_LIMIT; where J need not be symmetric, terms may grow for a while and still converge, so there |t_{k-1}| must
    also exceed both |t_0| and |t_{(k-1)//2}|, by the same factor.
    """

    num_terms: int
    step_size: float

    def __post_init__(self) -> None:
        require_count(self, "num_terms", 1)
        require_number(self, "step_size", positive=True)


GROWTH_LIMIT = 1.0 + 1e-6
"""Ratios of term norms above this count as growth; a null direction of J gives exactly 1, up to rounding."""

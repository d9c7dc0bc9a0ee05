"""One random term of the Neumann series."""

from __future__ import annotations

from dataclasses import dataclass

from nestgrad._validate import require_count, require_number


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomNeumann:
    """p = k a (I - a Jᵀ)ᵐ v, m uniform on {0, …, k-1} by the call's key; k = num_terms, a = step_size.

    Its mean over m is Neumann(num_terms=k, step_size=a). m products, so (k - 1)/2 on average; stats.steps is m + 1.
    Status TRUNCATED, DIVERGED as for Neumann, NONFINITE. (Ghadimi and Wang 2018, alg. 3.)
    """

    num_terms: int
    step_size: float

    def __post_init__(self) -> None:
        require_count(self, "num_terms", 1)
        require_number(self, "step_size", positive=True)

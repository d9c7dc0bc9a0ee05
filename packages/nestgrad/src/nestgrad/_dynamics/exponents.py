"""Lyapunov exponents of a map Φ, such as one step of an optimizer: how fast nearby points part as it is iterated.

With J_t = ∂Φ/∂x at x_t, x_{t+1} = Φ(x_t), and J⁽ᵏ⁾ = J_{k-1} ⋯ J_0, orthonormal directions Q_0 (m of them) at x_0 are
carried along,

    J_t Q_t = Q_{t+1} R_t,  R_t upper triangular, its diagonal not negative,      λ_i = (1/k) Σ_t ln (R_t)_ii

λ_i are the k-step exponents, in natural logarithms a step: e^(k λ_1) is how much longer J⁽ᵏ⁾ makes the first direction,
e^(k (λ_1 + λ_2)) how much larger the area of the first two, and so on. Their sum over all directions is the mean of
ln |det J_t| for every k and Q_0. One that Φ wipes out has λ = -∞. Some define an exponent by ln(dᵀJᵀJd), which is twice
this one.

Each λ_i is differentiable in x_0. Where Q_0 was sought, and not given, the derivative is that of the singular values
themselves, as these do not change to first order as their directions do.
(Benettin et al. 1980; Lorraine et al. 2022 for optimizers.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from nestgrad._errors import InvalidInput
from nestgrad._validate import require_choice, require_count, require_number

ExponentObjective = Literal["largest", "smallest", "sum", "entropy"]
"""One number of the exponents found: their maximum, minimum, sum, or Σ max(λ_i, 0)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExponentSpectrum:
    """λ_1 to λ_m by QR, from directions that are given, or drawn with the seed, or, for all exponents, the unit ones.

    num_exponents: m, None for as many as the point has entries, or as there are directions given. refinements: how
    often Q_0 is first replaced by the orthonormal part of J⁽ᵏ⁾ᵀ J⁽ᵏ⁾ Q_0; each turns it towards the leading right
    singular vectors of J⁽ᵏ⁾, along which λ_i = ln(σ_i) / k, and costs 2 k m products.
    """

    num_exponents: int | None = None
    refinements: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_exponents is not None:
            require_count(self, "num_exponents", 1)
        require_count(self, "refinements", 0)
        require_count(self, "seed", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LargestExponent:
    """ln(σ_max(J⁽ᵏ⁾)) / k, the largest k-step exponent of any direction, by iterating with J⁽ᵏ⁾ᵀ J⁽ᵏ⁾.

    Begins at a direction that is given, or drawn with the seed. Ends when |J⁽ᵏ⁾ᵀ J⁽ᵏ⁾ d - σ² d| ≤ rtol σ²; NotConverged
    where max_refinements do not bring it there. The error of the exponent is of the order of rtol² / k.
    """

    rtol: float = 1e-4
    max_refinements: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        require_number(self, "rtol", positive=True)
        require_count(self, "max_refinements", 1)
        require_count(self, "seed", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedDirection:
    """Bounds of the largest k-step exponent: along the direction that J_0, or each J_t by itself, stretches most.

    at "every step": (1/k) Σ ln σ_max(J_t), not below it. At "first step": the direction of σ_max(J_0) carried along,
    not above it. Each singular vector by iterating with J_tᵀ J_t as LargestExponent does with J⁽ᵏ⁾.
    """

    at: Literal["every step", "first step"] = "every step"
    rtol: float = 1e-4
    max_refinements: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice(self, "at", ("every step", "first step"))
        require_number(self, "rtol", positive=True)
        require_count(self, "max_refinements", 1)
        require_count(self, "seed", 0)


ExponentMethod = ExponentSpectrum | LargestExponent | TunedDirection
"""Any of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LyapunovExponents:
    """What was found along num_steps of the map.

    exponents: (m,), in nats a step. directions: Q_0, a tree like the point with a leading axis of m on each leaf, zero
    rows where a leaf holds integers. end: the point after the steps. products: of a J_t or its transpose with a vector.
    """

    exponents: Any
    directions: Any
    end: Any
    products: int

    @property
    def entropy(self) -> Any:
        """Σ max(λ_i, 0), after Pesin (1977): how fast what is not known of the point grows, in nats a step."""
        return self.exponents.clip(0).sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExponentGradient:
    """The objective, its derivative in the point (a tree like it, zero at integers), and the exponents it is of.

    products: those of the exponents and two for each product that the derivative goes back through.
    """

    value: Any
    gradient: Any
    found: LyapunovExponents
    products: int


def check_exponents(caller: str, num_steps: Any, method: Any, objective: Any = "largest") -> None:
    """Raise InvalidInput unless there are steps to take, a method and an objective."""
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise InvalidInput(
            f"{caller}: num_steps={num_steps!r}, limit: an int of at least 1. Remedy: pass num_steps=10."
        )
    if not isinstance(method, ExponentMethod):
        raise InvalidInput(
            f"{caller}: method {method!r}, limit: one of nestgrad.ExponentMethod. Remedy: pass ExponentSpectrum()."
        )
    if objective not in get_args(ExponentObjective):
        raise InvalidInput(
            f"{caller}: objective {objective!r}, limit: {', '.join(get_args(ExponentObjective))}. Remedy: "
            "pass objective='largest'."
        )

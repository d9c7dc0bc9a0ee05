"""Learned responses: a function of the hyperparameters whose values are all weights, and the hypergradient it gives.

Each takes λ, the entries of all hyperparameters in one vector, leaves in the order of their sorted paths, and with its
own weights φ makes every leaf of params as

    w_φ(λ) = bias + weight · z(λ).

φ is a tree: {"bias": like params, "weight": like params with one more, last axis} and, but for LinearResponse,
{"inner": V, "offset": c}. It is what `hypergradient` takes in the place of params when the method is a response; there

    w = w_φ(λ), v = ∂L_out/∂w, total = ∂L_out/∂λ + (∂w_φ/∂λ)ᵀ v,

adjoint being v and params of the result w; stats.inner_optimality is |∇_w L_in(w, λ)|, how far the response is from a
best one. Inner problem: Minimize. Status TRUNCATED or NONFINITE. (Lorraine and Duvenaud 2018, eq. 7.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nestgrad import tree
from nestgrad._validate import require_count


@dataclass(frozen=True, slots=True)
class LinearResponse:
    """z(λ) = λ; (h + 1) p numbers for h hyperparameters and p weights. Exact where the best response is affine."""


@dataclass(frozen=True, slots=True)
class FactorisedResponse:
    """z(λ) = Vλ + c, V (rank, h); p (rank + 1) + rank (h + 1) numbers."""

    rank: int

    def __post_init__(self) -> None:
        require_count(self, "rank", 1)


@dataclass(frozen=True, slots=True)
class MLPResponse:
    """z(λ) = max(Vλ + c, 0), V (hidden, h); p (hidden + 1) + hidden (h + 1) numbers."""

    hidden: int

    def __post_init__(self) -> None:
        require_count(self, "hidden", 1)


Response = LinearResponse | FactorisedResponse | MLPResponse
"""Any of them."""


def features(response: Response, entries: int) -> int:
    """The size of z: the last axis of φ's weight, for so many hyperparameter entries."""
    if isinstance(response, LinearResponse):
        return entries
    return response.rank if isinstance(response, FactorisedResponse) else response.hidden


def ordered_leaves(hparams: Any) -> list[Any]:
    """The leaves in the order of their sorted paths: that in which λ has them."""
    named = tree.named_leaves(hparams)
    return [named[path] for path in sorted(named)]

"""Learned responses: a function of the hyperparameters whose values are all weights, and the hypergradient it gives.

Each takes λ, the entries of all hyperparameters in one vector, leaves in the order of their sorted paths, and with its
own weights φ makes every leaf of params as

    w_φ(λ) = bias + weight · z(λ),      and GatedResponse as      w_φ(λ) = bias + (gates λ) ⊙ weight.

φ is a tree: {"bias": like params, "weight": like params with one more, last axis} and, but for LinearResponse,
{"inner": V, "offset": c}; GatedResponse has a form of its own. φ is what `hypergradient` takes in the place of params
when the method is a response; there

    w = w_φ(λ), v = ∂L_out/∂w, total = ∂L_out/∂λ + (∂w_φ/∂λ)ᵀ v,

adjoint being v and params of the result w; stats.inner_optimality is |∇_w L_in(w, λ)|, how far the response is from a
best one. Inner problem: Minimize. Status TRUNCATED or NONFINITE. (Lorraine and Duvenaud 2018, eq. 7.)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from nestgrad import tree
from nestgrad._errors import InvalidInput
from nestgrad._validate import require_count, require_number


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedResponse:
    """Each output's weights move together, by a gate linear in λ: 2 p numbers and h for each output.

    φ = {"bias": like params, "weight": like params, "gates": like params, each leaf (outputs, h)}. An output of a leaf
    is an index of its `axis`, the first unless `axes` names another for the leaf's path, as (("words/weight", 1),) for
    an embedding; a leaf that is a single number has one output. A layer of such weights is two plain layers, outputs of
    the second gated, so that each row of a batch may have hyperparameters of its own. (MacKay et al. 2019, sec. 3.)

    gate_scale: gates begin as N(0, gate_scale²). 0, at which the response begins constant, is Bae and Grosse's (2020);
    MacKay et al. have 0.01.
    """

    axis: int = 0
    axes: tuple[tuple[str, int], ...] = ()
    gate_scale: float = 0.0

    def __post_init__(self) -> None:
        require_number(self, "gate_scale", positive=False)
        axes: Any = self.axes
        if not isinstance(axes, tuple) or not all(map(_is_pair, axes)) or not _is_int(self.axis):  # pyright: ignore[reportUnknownArgumentType]
            raise InvalidInput(
                f"GatedResponse: got axis={self.axis!r}, axes={self.axes!r}, limit: an int, and a tuple of pairs "
                'of a leaf\'s path and its axis. Remedy: axes=(("words/weight", 1),).'
            )

    def axis_of(self, path: str, shape: tuple[int, ...]) -> int:
        """The axis of a leaf's outputs, from 0; InvalidInput where it has none. A number counts as shape (1,)."""
        axis = dict(self.axes).get(path, self.axis)
        rank = max(len(shape), 1)
        if not -rank <= axis < rank:
            raise InvalidInput(
                f"GatedResponse: axis {axis} of params[{path!r}], limit: a leaf of shape {shape} has {rank}. "
                f"Remedy: axes=(({path!r}, 0),)."
            )
        return axis % rank

    def require_paths(self, paths: Collection[str]) -> None:
        """Raise InvalidInput where `axes` names a leaf that is not there."""
        for path, _ in self.axes:
            if path not in paths:
                raise InvalidInput(
                    f"GatedResponse.axes: {path!r}, limit: the leaves {', '.join(sorted(paths))}. Remedy: name one."
                )


Response = LinearResponse | FactorisedResponse | MLPResponse | GatedResponse
"""Any of them."""


def features(response: LinearResponse | FactorisedResponse | MLPResponse, entries: int) -> int:
    """The size of z: the last axis of φ's weight, for so many hyperparameter entries."""
    if isinstance(response, LinearResponse):
        return entries
    return response.rank if isinstance(response, FactorisedResponse) else response.hidden


def ordered_leaves(hparams: Any) -> list[Any]:
    """The leaves in the order of their sorted paths: that in which λ has them."""
    named = tree.named_leaves(hparams)
    return [named[path] for path in sorted(named)]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and [type(part) for part in value] == [str, int]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]

"""Hyperparameter spaces: a natural value seen by losses, an unconstrained leaf moved by the outer optimizer.

A space holds the initial natural value (a number, an array or a tree of arrays) and the bijection. The bijections are
written once against five elementary functions, which each backend supplies for its arrays.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from nestgrad import tree
from nestgrad._errors import InvalidInput, OutOfSpace

LN10 = math.log(10.0)


class SpaceOps(Protocol):
    """The elementary functions that a backend supplies for its arrays, all elementwise and differentiable."""

    def exp(self, x: Any, /) -> Any: ...
    def log(self, x: Any, /) -> Any: ...
    def expm1(self, x: Any, /) -> Any: ...
    def sigmoid(self, x: Any, /) -> Any: ...
    def softplus(self, x: Any, /) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Space(ABC):
    """A bijection between natural values and unconstrained leaves.

    clip, when given, is a range of natural values, ends in the space: after each hyper step, and outside every
    derivative, a leaf beyond it is set to the range's end (Clarke et al. 2022 clip the learning rate to [1e-10, 1]).
    """

    clip: tuple[float, float] | None = None

    def _check(self, init: Any) -> None:
        if isinstance(init, bool) or init is None or isinstance(init, str):
            raise InvalidInput(
                f"{self._title}: got initial value {init!r}, limit: a real number. Remedy: pass a float."
            )
        if isinstance(init, (int, float)):
            self.require(float(init))
        if self.clip is not None:
            low, high = self.clip
            self.require(low)
            self.require(high)
            if not low < high:
                raise InvalidInput(
                    f"{self._title}.clip: got {self.clip!r}, limit: low < high. Remedy: swap the two ends."
                )

    @property
    def _title(self) -> str:
        return type(self).__name__

    @property
    @abstractmethod
    def interval(self) -> tuple[float, float]:
        """The open interval of natural values."""

    @property
    @abstractmethod
    def initial(self) -> Any:
        """The initial natural value: a number, an array or a tree of arrays."""

    @abstractmethod
    def natural(self, leaf: Any, ops: SpaceOps) -> Any:
        """The natural value of an unconstrained leaf, elementwise."""

    @abstractmethod
    def unconstrained(self, value: Any, ops: SpaceOps) -> Any:
        """The leaf of a natural value, elementwise: the inverse of `natural`."""

    def starting_at(self, init: Any) -> Space:
        """The same space with another initial value."""
        return dataclasses.replace(self, init=init)  # pyright: ignore[reportCallIssue]

    def require(self, value: float, name: str = "") -> None:
        """Raise OutOfSpace, naming the hyperparameter, unless the number is inside the open interval."""
        low, high = self.interval
        if not low < value < high:
            where = f"hyperparameter {name!r}: " if name else ""
            raise OutOfSpace(
                f"{where}{self._title} value {value!r}, limit: strictly between {low:g} and {high:g}. "
                "Remedy: start inside the interval, or choose another space."
            )


@dataclass(frozen=True)
class _StartingAt(Space):
    """A space with no parameter but its initial value."""

    init: Any

    def __post_init__(self) -> None:
        self._check(self.init)

    @property
    def initial(self) -> Any:
        return self.init


@dataclass(frozen=True)
class Real(_StartingAt):
    """Any real value: value = leaf."""

    @property
    def interval(self) -> tuple[float, float]:
        return (-math.inf, math.inf)

    def natural(self, leaf: Any, ops: SpaceOps) -> Any:
        return leaf

    def unconstrained(self, value: Any, ops: SpaceOps) -> Any:
        return value


@dataclass(frozen=True)
class Log(_StartingAt):
    """A positive value: value = exp(leaf), d value / d leaf = value."""

    @property
    def interval(self) -> tuple[float, float]:
        return (0.0, math.inf)

    def natural(self, leaf: Any, ops: SpaceOps) -> Any:
        return ops.exp(leaf)

    def unconstrained(self, value: Any, ops: SpaceOps) -> Any:
        return ops.log(value)


@dataclass(frozen=True)
class Log10(_StartingAt):
    """A positive value by its decimal exponent: value = 10^leaf, d value / d leaf = ln 10 · value."""

    @property
    def interval(self) -> tuple[float, float]:
        return (0.0, math.inf)

    def natural(self, leaf: Any, ops: SpaceOps) -> Any:
        return ops.exp(LN10 * leaf)

    def unconstrained(self, value: Any, ops: SpaceOps) -> Any:
        return ops.log(value) / LN10


@dataclass(frozen=True)
class Logit(_StartingAt):
    """A value in (0, 1): value = 1 / (1 + exp(-leaf)), d value / d leaf = value (1 - value)."""

    @property
    def interval(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def natural(self, leaf: Any, ops: SpaceOps) -> Any:
        return ops.sigmoid(leaf)

    def unconstrained(self, value: Any, ops: SpaceOps) -> Any:
        return ops.log(value) - ops.log(1.0 - value)


@dataclass(frozen=True)
class Softplus(_StartingAt):
    """A positive value: value = log(1 + exp(leaf)), d value / d leaf = 1 - exp(-value)."""

    @property
    def interval(self) -> tuple[float, float]:
        return (0.0, math.inf)

    def natural(self, leaf: Any, ops: SpaceOps) -> Any:
        return ops.softplus(leaf)

    def unconstrained(self, value: Any, ops: SpaceOps) -> Any:
        return value + ops.log(-ops.expm1(-value))


@dataclass(frozen=True)
class Bounded(Space):
    """A value in (low, high): value = low + (high - low) / (1 + exp(-leaf)); init is the middle when not given."""

    low: float
    high: float
    init: Any = None

    def __post_init__(self) -> None:
        ends: tuple[Any, Any] = (self.low, self.high)
        finite = all(isinstance(end, (int, float)) and math.isfinite(end) for end in ends)
        if not finite or not self.low < self.high:
            raise InvalidInput(
                f"Bounded: got ({self.low!r}, {self.high!r}), limit: two finite numbers, low < high. "
                "Remedy: use Real, Log or Softplus for an unbounded end."
            )
        self._check(self.initial)

    @property
    def interval(self) -> tuple[float, float]:
        return (float(self.low), float(self.high))

    @property
    def initial(self) -> Any:
        return (self.low + self.high) / 2.0 if self.init is None else self.init

    def natural(self, leaf: Any, ops: SpaceOps) -> Any:
        return self.low + (self.high - self.low) * ops.sigmoid(leaf)

    def unconstrained(self, value: Any, ops: SpaceOps) -> Any:
        share = (value - self.low) / (self.high - self.low)
        return ops.log(share) - ops.log(1.0 - share)


def space_paths(spaces: Any, values: Any) -> list[str]:
    """For each leaf of values, in their order, the path of the space at or above it."""
    there = list(tree.named_leaves(spaces))

    def above(path: str) -> str:
        return next(at for at in there if path == at or path.startswith(f"{at}/") or not at)

    return [above(path) for path in tree.named_leaves(values)]


def map_spaces(function: Callable[[Space, Any], Any], spaces: Any, values: Any) -> Any:
    """A tree like values, each leaf being function(the space at or above the leaf's path, leaf)."""
    named = tree.named_leaves(spaces)
    rows = zip(space_paths(spaces, values), tree.leaves(values), strict=True)
    return tree.unflatten(values, [function(named[path], leaf) for path, leaf in rows])


def initial_values(spaces: Any) -> Any:
    """The initial natural values: spaces with each space replaced by the number, array or tree that it holds."""
    return tree.unflatten(spaces, [space.initial for space in tree.leaves(spaces)])


def require_initial(spaces: Any, values: Any, extremes: Callable[[Any], tuple[float, float]]) -> None:
    """Raise OutOfSpace unless both extremes (min, max) of every initial value are inside its space."""
    names = iter(tree.named_leaves(values))

    def check(space: Space, value: Any) -> None:
        name = next(names)
        for end in extremes(value):
            space.require(end, name)

    map_spaces(check, spaces, values)

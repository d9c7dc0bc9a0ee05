"""Learning rates that change with the number of steps taken, and the rules that follow them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec

import numpy as np

from nestgrad import InvalidInput
from nestgrad_reference._tree import xp

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Scheduled:
    """make(schedule(count)), count being the steps taken before this one; the state is {"count", "rule"}."""

    make: Callable[[Any], Any]
    schedule: Callable[[Any], Any]

    def init(self, params: Any) -> Any:
        """A zero count and the rule's own."""
        return {"count": 0, "rule": self.make(self.schedule(0)).init(params)}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """The rule's own at the rate of now."""
        rule = self.make(self.schedule(state["count"]))
        updates, after = rule.update(grads, state["rule"], params)
        return updates, {"count": state["count"] + 1, "rule": after}


def schedulable(constructor: Callable[..., Any]) -> Callable[..., Any]:
    """Let the constructor of a rule take a schedule for its first argument, the learning rate."""

    @functools.wraps(constructor)
    def made(learning_rate: Any, *args: Any, **settings: Any) -> Any:
        if not callable(learning_rate):
            return constructor(learning_rate, *args, **settings)
        return Scheduled(lambda rate: constructor(rate, *args, **settings), learning_rate)

    return made


def piecewise_constant(boundaries: Sequence[int], values: Any) -> Callable[[Any], Any]:
    """count -> values[j], j being how many of the ascending boundaries are at most count; values: one more of them.

    values is a list of numbers or an array; the derivative in the entries that are not in use is zero.
    """
    ends = [int(end) for end in boundaries]
    if len(values) != len(ends) + 1 or any(a >= b for a, b in zip(ends, ends[1:], strict=False)):
        raise InvalidInput(
            f"piecewise_constant: {len(values)} values for boundaries {ends}, limit: {len(ends) + 1} values and "
            "ascending boundaries. Remedy: one value before each boundary and one after the last."
        )
    rates = xp.array(values) if isinstance(values, (list, tuple)) else values
    return lambda count: rates[int(np.searchsorted(ends, count, side="right"))]


def cosine(init_value: Any, decay_steps: Any, alpha: Any = 0.0) -> Callable[[Any], Any]:
    """count -> init_value · ((1 - alpha) ½ (1 + cos(π min(count / decay_steps, 1))) + alpha).

    Differentiable in all three. (Loshchilov and Hutter 2017, eq. 5, one period.)
    """

    def rate(count: Any) -> Any:
        share = xp.minimum(count / decay_steps, 1.0)
        return init_value * ((1.0 - alpha) * 0.5 * (1.0 + xp.cos(np.pi * share)) + alpha)

    return rate

"""Learning rates that change with the number of steps taken, and the rules that follow them."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import InvalidInput, tree


@dataclass(frozen=True, slots=True)
class Scheduled:
    """make(schedule(count)), count being the steps taken before this one; the state is {"count", "rule"}.

    In a traced program count is a 0-d integer tensor, elsewhere an int.
    """

    make: Callable[[Any], Any]
    schedule: Callable[[Any], Any]

    def init(self, params: Any) -> Any:
        """A zero count and the rule's own."""
        return {"count": 0, "rule": self.make(self.schedule(0)).init(params)}

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """The rule's own at the rate of now."""
        updates, after = self._rule(state, params).update(grads, state["rule"], params)
        return updates, {"count": state["count"] + 1, "rule": after}

    def step(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(next params, new state) by the rule at the rate of now."""
        rule = self._rule(state, params)
        if hasattr(rule, "step"):
            moved, after = rule.step(grads, state["rule"], params)
        else:
            updates, after = rule.update(grads, state["rule"], params)
            moved = tree.map(torch.add, params, updates)
        return moved, {"count": state["count"] + 1, "rule": after}

    def flat_state(self, state: Any) -> Any:
        """The state for all weights in one vector, or None where the rule has none."""
        rule = self.make(self.schedule(state["count"]))
        flat = rule.flat_state(state["rule"]) if hasattr(rule, "flat_state") else None
        return None if flat is None else {"count": state["count"], "rule": flat}

    def _rule(self, state: Any, params: Any) -> Any:
        rate = self.schedule(state["count"])
        if isinstance(rate, Tensor) and rate.dim() == 0:
            like = tree.leaves(params)[0]
            rate = rate.to(like.dtype).to(like.device)  # a 0-d rate of more precision would widen 0-d params
        return self.make(rate)


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

    values is a list of numbers or 0-d tensors, or a tensor; the derivative in the entries not in use is zero.
    """
    ends = [int(end) for end in boundaries]
    if len(values) != len(ends) + 1 or any(a >= b for a, b in zip(ends, ends[1:], strict=False)):
        raise InvalidInput(
            f"piecewise_constant: {len(values)} values for boundaries {ends}, limit: {len(ends) + 1} values and "
            "ascending boundaries. Remedy: one value before each boundary and one after the last."
        )

    tensors = [] if isinstance(values, Tensor) else [x for x in values if isinstance(x, Tensor)]
    if tensors:  # as one tensor, so that each value has a path, if one of derivative zero, at every count
        values = torch.stack([torch.as_tensor(x, dtype=tensors[0].dtype, device=tensors[0].device) for x in values])

    def rate(count: Any) -> Any:
        if not isinstance(count, Tensor):
            return values[bisect.bisect_right(ends, count)]
        rates = values
        if not isinstance(rates, Tensor):
            rates = torch.tensor(values, dtype=torch.float64, device=count.device)
        place = torch.stack([torch.zeros_like(count), *(count >= end for end in ends)]).sum()
        return rates.index_select(0, place.reshape(1).to(rates.device)).squeeze(0)

    return rate


def cosine(init_value: Any, decay_steps: Any, alpha: Any = 0.0) -> Callable[[Any], Any]:
    """count -> init_value · ((1 - alpha) ½ (1 + cos(π min(count / decay_steps, 1))) + alpha).

    Differentiable in all three. (Loshchilov and Hutter 2017, eq. 5, one period.)
    """

    def rate(count: Any) -> Any:
        count = count.double() if isinstance(count, Tensor) else count
        share = count / decay_steps
        wave = torch.cos(math.pi * share.clamp(max=1.0)) if isinstance(share, Tensor) else _wave(share)
        return init_value * ((1.0 - alpha) * 0.5 * (1.0 + wave) + alpha)

    return rate


def _wave(share: float) -> float:
    return math.cos(math.pi * min(share, 1.0))

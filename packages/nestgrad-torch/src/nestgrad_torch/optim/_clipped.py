"""Clipping by the global norm, inside the differentiated update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import tree
from nestgrad_torch.optim._common import is_scalar, root


@dataclass(frozen=True, slots=True)
class Clipped:
    """A rule that is given g · min(1, max_norm / (|g| + 1e-6)) for g, |g| being over all params.

    Differentiated through, in max_norm as well, a float or a 0-d tensor; at g = 0 the factor is 1 and its derivative
    zero. The state is the rule's own. (Pascanu, Mikolov and Bengio 2013, alg. 1.)
    """

    rule: Any
    max_norm: Any

    def init(self, params: Any) -> Any:
        """The rule's own."""
        return self.rule.init(params)

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """The rule's own, of the clipped gradients."""
        return self.rule.update(self._scaled(grads), state, params)

    def step(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """(next params, new state) by the rule, of the clipped gradients."""
        if hasattr(self.rule, "step"):
            return self.rule.step(self._scaled(grads), state, params)
        updates, state = self.update(grads, state, params)
        return tree.map(torch.add, params, updates), state

    def flat_state(self, state: Any) -> Any:
        """The rule's own, or None where it has none."""
        return self.rule.flat_state(state) if hasattr(self.rule, "flat_state") and is_scalar(self.max_norm) else None

    def _scaled(self, grads: Any) -> Any:
        squares = [(g * g).sum() for g in tree.leaves(grads)]
        norm = root(torch.stack(squares).sum())
        factor = torch.clamp(self.max_norm / (norm + 1e-6), max=1.0)
        return tree.map(lambda g: _times(g, factor), grads)


def clipped(rule: Any, max_norm: Any) -> Clipped:
    """The rule after clipping by the global norm; see Clipped for the formula."""
    return Clipped(rule, max_norm)


def _times(grad: Tensor, factor: Tensor) -> Tensor:
    return grad * factor.to(grad.dtype)

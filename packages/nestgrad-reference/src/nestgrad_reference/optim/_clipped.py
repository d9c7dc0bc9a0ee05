"""Clipping by the global norm, inside the differentiated update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nestgrad import tree
from nestgrad_reference._tree import root, xp


@dataclass(frozen=True, slots=True)
class Clipped:
    """A rule that is given g · min(1, max_norm / (|g| + 1e-6)) for g, |g| being over all params.

    Differentiated through, in max_norm as well; at g = 0 the factor is 1 and its derivative zero. The state is the
    rule's own. (Pascanu, Mikolov and Bengio 2013, alg. 1.)
    """

    rule: Any
    max_norm: Any

    def init(self, params: Any) -> Any:
        """The rule's own."""
        return self.rule.init(params)

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """The rule's own, of the clipped gradients."""
        norm = root(sum(xp.sum(g**2) for g in tree.leaves(grads)))
        factor = xp.minimum(1.0, self.max_norm / (norm + 1e-6))
        return self.rule.update(tree.map(lambda g: g * factor, grads), state, params)


def clipped(rule: Any, max_norm: Any) -> Clipped:
    """The rule after clipping by the global norm; see Clipped for the formula."""
    return Clipped(rule, max_norm)

"""The vector that a problem is linearised in: the params and, where it is carried, the optimizer's state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import InvalidInput, WeightUpdate, tree
from nestgrad_reference._checks import functional_optimizer
from nestgrad_reference._tree import Vector, concatenate, flatten, matched, shaped


@dataclass(frozen=True, slots=True)
class Carried:
    """s = (params, the floating leaves of opt_state) as one vector; the params alone unless `whole`."""

    params: Any
    opt_state: Any
    whole: bool

    @property
    def weights(self) -> int:
        """How many entries of s are weights; they come first."""
        return sum(np.size(leaf) for leaf in tree.leaves(self.params))

    @property
    def vector(self) -> Vector:
        """s itself."""
        return np.asarray(self.join(concatenate(self.params), self.opt_state))

    def split(self, s: Any) -> tuple[Any, Any]:
        """(flat weights, optimizer state) of a vector s, differentiably."""
        if not self.whole:
            return s, self.opt_state
        _, restore = flatten(self._floating(self.opt_state))
        moved = iter(tree.leaves(restore(s[self.weights :])))
        named = tree.named_leaves(self.opt_state)
        return s[: self.weights], tree.unflatten(
            self.opt_state, [next(moved) if _is_floating(leaf) else leaf for leaf in named.values()]
        )

    def join(self, w: Any, opt_state: Any) -> Any:
        """The vector of flat weights and an optimizer state, differentiably."""
        if not self.whole:
            return w
        floating = self._floating(opt_state)
        return concatenate([w, *floating]) if floating else w

    def as_tree(self, s: Vector) -> Any:
        """A vector shaped like params; {"params": …, "opt_state": list of floating leaves} where state is carried."""
        _, shape_params = flatten(self.params)
        params = shape_params(s[: self.weights])
        if not self.whole:
            return params
        floating = self._floating(self.opt_state)
        state = flatten(floating)[1](s[self.weights :]) if floating else []
        return {"params": params, "opt_state": state}

    def as_vector(self, values: Any, title: str) -> Vector:
        """The inverse of as_tree; InvalidInput for a tree of another form."""
        leaves = shaped(self.as_tree(self.vector), values, title)
        return np.asarray(concatenate([np.asarray(leaf, np.float64) for leaf in leaves]))

    def _floating(self, opt_state: Any) -> list[Any]:
        found = matched(self.opt_state, opt_state, "opt_state")
        kept: list[Any] = []
        for (name, leaf), other in zip(tree.named_leaves(self.opt_state).items(), found, strict=True):
            if not _is_floating(leaf):
                continue
            if np.shape(leaf) != np.shape(other):
                raise InvalidInput(
                    f"opt_state[{name!r}]: shape {np.shape(leaf)} becomes {np.shape(other)} in one step, limit: the "
                    "same shape. Remedy: pass the optimizer's own init(params)."
                )
            kept.append(other)
        return kept


def carried(inner: Any, params: Any, hparams: Any, opt_state: Any, *, whole: bool | None = None) -> Carried:
    """s at the start; opt_state None is the optimizer's own init. whole: as the problem says unless given."""
    if not isinstance(inner, WeightUpdate):
        return Carried(params, None, whole=False)
    state = functional_optimizer(inner, hparams).init(params) if opt_state is None else opt_state
    return Carried(params, state, whole=inner.carry == "weights_and_state" if whole is None else whole)


def _is_floating(leaf: Any) -> bool:
    return np.issubdtype(np.asarray(leaf).dtype, np.floating)

"""One function for many runs at once, and the problem of all runs together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nestgrad import BilevelProblem, UnsupportedSpec, WeightUpdate, tree
from nestgrad_torch._derivatives import functional_optimizer, scalar_loss


def over_runs(title: str, function: Callable[..., Any], *given: Any) -> Any:
    """function(*given) for every run: tensors have a leading axis, of which the function sees one entry.

    0-d tensors and what is no tensor are one for all runs. The result's tensors have the leading axis, each of them.
    """
    found: list[Any] = []
    leaves = tree.leaves(given)
    stacked = [leaf for leaf in leaves if _is_stacked(leaf)]

    def alone(*entries: Tensor) -> tuple[Tensor, ...]:
        moving = iter(entries)
        result = function(*tree.unflatten(given, [next(moving) if _is_stacked(x) else x for x in leaves]))
        found[:] = [result]
        return tuple(leaf for leaf in tree.leaves(result) if isinstance(leaf, Tensor))

    try:
        out = iter(torch.func.vmap(alone, randomness="different")(*stacked))
    except RuntimeError as failure:
        if "vmap" not in str(failure):
            raise
        first = str(failure).strip().splitlines()[0][:200]
        raise UnsupportedSpec(
            f"ManyRuns: {title} cannot be taken for all runs at once ({first}), limit: operations that torch.func.vmap "
            "has. Remedy: torch.where for a choice by value, operations out of place; or a run after the other."
        ) from failure
    (result,) = found
    return tree.unflatten(result, [next(out) if isinstance(leaf, Tensor) else leaf for leaf in tree.leaves(result)])


def _is_stacked(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0


@dataclass(frozen=True, slots=True)
class EachRun:
    """A loss as the losses of all runs, (runs,). shared: whether a batch is one for all."""

    title: str
    loss: Callable[..., Any]
    shared: bool

    def __call__(self, params: Any, values: Any, batch: Any) -> Tensor:
        """loss(params, values, batch) of each run."""
        title, loss = self.title, self.loss
        if self.shared:
            return over_runs(title, lambda p, h: scalar_loss(loss, title, p, h, batch), params, values)
        return over_runs(title, lambda p, h, b: scalar_loss(loss, title, p, h, b), params, values, batch)


@dataclass(frozen=True, slots=True)
class RunsRule:
    """A functional rule for each run, made of the run's own values."""

    update_of: WeightUpdate
    values: Any

    def init(self, params: Any) -> Any:
        """The state of each run's rule."""
        return self._over(lambda rule, p: rule.init(p), params)

    def update(self, grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """The updates of each run's rule."""
        updates, after = self._over(lambda rule, *given: rule.update(*given), grads, state, params)
        return updates, shared_again(state, after)

    def _over(self, function: Callable[..., Any], *given: Any) -> Any:
        def alone(values: Any, *entries: Any) -> Any:
            return function(functional_optimizer(self.update_of, values), *entries)

        return over_runs("the optimizer", alone, self.values, *given)


def shared_again(before: Any, after: Any) -> Any:
    """The state after a step, its 0-d tensors again one for all runs where they were."""
    rows = zip(tree.leaves(before), *tree.matched(before, after), strict=True)
    return tree.unflatten(before, [new[0] if isinstance(old, Tensor) and not old.dim() else new for old, new in rows])


def together(problem: BilevelProblem, *, shared: bool, seen: list[Tensor]) -> BilevelProblem:
    """One problem of all runs, whose losses are the sums of the runs': each gradient is that of its run's loss alone.

    seen: is given the outer losses of all runs.
    """
    inner: Any = problem.inner
    losses = EachRun("inner loss", inner.loss, shared)
    outer = EachRun("outer_loss", problem.outer_loss, shared)

    def outer_sum(params: Any, values: Any, batch: Any) -> Tensor:
        each = outer(params, values, batch)
        seen.append(each.detach())
        return each.sum()

    return BilevelProblem(
        inner=WeightUpdate(lambda *given: losses(*given).sum(), lambda values: RunsRule(inner, values), inner.carry),
        outer_loss=outer_sum,
    )

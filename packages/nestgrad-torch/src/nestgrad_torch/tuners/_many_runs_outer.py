"""The outer step of many runs: each by its own hypergradient, count and moments; what a guard skips stays."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nestgrad import Event, Guard, tree
from nestgrad_torch.tuners._many_runs_work import beside, norms
from nestgrad_torch.tuners._outer_step import AdamStep, SGDStep, formula, started
from nestgrad_torch.tuners._over_runs import over_runs


class OuterSteps:
    """The outer optimizer of one tuner, for this many runs.

    formula: its step with a count for each run, where it is a plain form of torch.optim.Adam or SGD; else None.
    """

    def __init__(self, tuner: Any, runs: int) -> None:
        self._tuner, self._runs = tuner, runs
        step = formula(tuner.outer_optimizer)
        self.formula: Any = None if step is None else _EachRun(step)

    def start(self, hparams: Any) -> list[Any]:
        """The state before the first step."""
        leaves = tree.leaves(hparams)
        if self.formula is None:
            return [[{} for _ in leaves] for _ in range(self._runs)]
        return [self.formula.start(leaf) for leaf in leaves]

    @torch.no_grad()
    def __call__(
        self, state: Any, total: list[Tensor], events: Tensor | None = None, scale: Tensor | None = None
    ) -> tuple[Any, Any]:
        """(the leaves, the outer state) after each run's step; events, scale: what the guard did with each."""
        if scale is not None:
            total = [grad * beside(scale, grad) for grad in total]
        skipped = None if events is None else events == int(Event.SKIPPED)
        if self.formula is None:
            return self._one_by_one(state, total, [False] * self._runs if skipped is None else skipped.tolist())
        leaves, kept = tree.leaves(state["hparams"]), state["outer_opt_state"]
        kept = started(self.formula, leaves, kept)
        steps = [self.formula(*row) for row in zip(leaves, total, kept, strict=True)]
        moved = tree.leaves(self._tuner._clipped(state["hparams"], [leaf for leaf, _ in steps]))  # noqa: SLF001
        entries = [entry for _, entry in steps]
        if skipped is not None:
            moved = [torch.where(beside(skipped, new), old, new) for old, new in zip(leaves, moved, strict=True)]
            rows = zip(tree.leaves(kept), *tree.matched(kept, entries), strict=True)
            stays = [torch.where(beside(skipped, new).to(new.device), old, new) for old, new in rows]
            entries = tree.unflatten(kept, stays)
        return tree.unflatten(state["hparams"], moved), entries

    def _one_by_one(self, state: Any, total: list[Tensor], skipped: list[bool]) -> tuple[Any, Any]:
        """By the optimizer itself, a run after the other."""
        rows, kept = [], list(state["outer_opt_state"])
        leaves = tree.leaves(state["hparams"])
        for run, stays in enumerate(skipped):
            own = [leaf[run].clone() for leaf in leaves]
            if not stays:
                alone = {"hparams": tree.unflatten(state["hparams"], own), "outer_opt_state": kept[run]}
                grads = [grad[run].clone() for grad in total]
                moved = self._tuner._move(self._tuner.outer_optimizer, alone, grads)  # noqa: SLF001
                own, kept[run] = tree.leaves(moved["hparams"]), moved["outer_opt_state"]
            rows.append(own)
        return tree.unflatten(state["hparams"], [torch.stack(column) for column in zip(*rows, strict=True)]), kept


class _EachRun:
    """A formula over a leading axis, each run with its own count."""

    def __init__(self, step: AdamStep | SGDStep) -> None:
        self._step = step

    def start(self, leaf: Tensor) -> Any:
        """What the optimizer makes at its first step, for each run."""
        entry, _ = over_runs("the outer optimizer", lambda x: (self._step.start(x), x), leaf)
        return tree.map(torch.clone, entry)

    def __call__(self, leaf: Tensor, grad: Tensor, kept: Any) -> tuple[Tensor, Any]:
        """(the leaf after the step, the entry after it)."""
        return over_runs("the outer optimizer", self._step, leaf, grad, kept)


def judged(guard: Guard, total: list[Tensor], outer_loss: Tensor) -> tuple[Tensor, Tensor]:
    """(the events as integers, what to multiply each hypergradient by), (runs,), as Guard.judge finds them."""
    sizes = norms(total)
    finite = torch.stack([leaf.isfinite().reshape(len(leaf), -1).all(1) for leaf in total]).all(0)
    events = torch.where(finite & outer_loss.isfinite(), int(Event.NONE), int(Event.SKIPPED))
    if guard.max_norm is None:
        return events, torch.ones_like(sizes)
    long = (events == int(Event.NONE)) & (sizes > guard.max_norm)
    event = Event.CLIPPED if guard.too_long == "clip" else Event.SKIPPED
    scale = torch.where(long, guard.max_norm / sizes, 1.0)
    return torch.where(long, int(event), events), scale

"""The steps of a map from one point, each linearised on a graph of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from nestgrad import InvalidInput
from nestgrad_torch._dynamics.form import At, Form

Update = Callable[[Any], Any]
_State = TypeVar("_State")

SEGMENT = 16
"""Steps whose states, and in a small point whose graphs, are there at a time on the way back."""

_SMALL = 10_000
"""Entries of a point up to which a step taken again costs more in calls than its graph does in memory."""


class Step:
    """One step: the place it leads to, and products with J = ∂Φ/∂x, all of them from one graph."""

    def __init__(self, form: Form, update: Update, at: At) -> None:
        self._form, self._enter = form, at.vector.detach().requires_grad_()
        at.draws.again()
        after = form.moved(update(form.tree(At(self._enter, at.others, at.draws))), at.draws)
        self._leave, self._pulled = after.vector, None
        if not self._leave.requires_grad:
            raise self._unconnected()
        self.end = At(self._leave.detach(), after.others, after.draws)

    def push(self, columns: Tensor) -> Tensor:
        """J columns, (n, m): the derivative, in u, of ⟨Jᵀu, column⟩."""
        dummy, pulled = self._pulled_back()
        if not pulled.requires_grad:
            return torch.zeros_like(columns)
        rows = [_grad(pulled, dummy, column) for column in columns.unbind(1)]
        return _stacked([torch.zeros_like(dummy) if row is None else row for row in rows], columns)

    def pull(self, columns: Tensor) -> Tensor:
        """Jᵀ columns, (n, m)."""
        return _stacked([self._pull(column) for column in columns.unbind(1)], columns)

    def adjoint(self, images: Tensor, columns: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """(Jᵀ images, Jᵀ end + ∂/∂x Σ_j ⟨image_j, J(x) column_j⟩): cotangents of the columns and of x."""
        pulled = [self._pull(image, create_graph=True) for image in images.unbind(1)]
        roots = [(p, column) for p, column in zip(pulled, columns.unbind(1), strict=True) if p.requires_grad]
        outputs, seeds = [self._leave, *(p for p, _ in roots)], [end, *(column for _, column in roots)]
        (slope,) = torch.autograd.grad(outputs, self._enter, seeds, retain_graph=True)
        return _stacked([p.detach() for p in pulled], columns), slope

    def _pulled_back(self) -> tuple[Tensor, Tensor]:
        """(u, Jᵀu with the graph in u): made once."""
        if self._pulled is None:
            dummy = torch.zeros_like(self._leave, requires_grad=True)
            self._pulled = dummy, self._pull(dummy, create_graph=True)
        return self._pulled

    def _pull(self, vector: Tensor, *, create_graph: bool = False) -> Tensor:
        pulled = _grad(self._leave, self._enter, vector, create_graph=create_graph)
        if pulled is None:
            raise self._unconnected()
        return pulled

    def _unconnected(self) -> InvalidInput:
        return InvalidInput(
            f"{self._form.caller}: update's result has 0 paths from the point, limit: at least 1, as its derivative is "
            "asked for. Remedy: Play.update in the place of Play.step, or let update keep its graph."
        )


def _stacked(rows: list[Tensor], like: Tensor) -> Tensor:
    """(n, m), of which m may be 0."""
    return torch.stack(rows, dim=1) if rows else torch.zeros_like(like)


def _grad(output: Tensor, leaf: Tensor, seed: Tensor, *, create_graph: bool = False) -> Tensor | None:
    return torch.autograd.grad(output, leaf, seed, retain_graph=True, create_graph=create_graph, allow_unused=True)[0]


class Chain:
    """num_steps steps from a place; again: there will be several sweeps over them."""

    def __init__(self, form: Form, update: Update, start: At, num_steps: int, *, again: bool) -> None:
        self.form, self.start, self.num_steps = form, start, num_steps
        self._update, self._kept = update, dict[int, Step]()
        self._small = form.size <= _SMALL
        self._whole = again and num_steps <= SEGMENT

    def step(self, count: int, at: At, *, near: bool = False) -> Step:
        """Step `count`, which begins at this place; near: it will be asked for again soon."""
        found = self._kept.get(count)
        if found is None:
            found = Step(self.form, self._update, at)
            if self._small and (near or self._whole):
                while len(self._kept) >= SEGMENT:
                    del self._kept[next(iter(self._kept))]
                self._kept[count] = found
        return found

    def backwards(
        self, start: _State, advance: Callable[[int, _State, bool], _State]
    ) -> Iterator[tuple[int, _State, _State]]:
        """(t, the state before step t, the state after it) from the last step to the first.

        advance(t, state, near) takes step t. States are recomputed from kept ones by bisection, so that log2(num_steps)
        of them and those of a segment are there at a time.
        """
        ahead = [(0, self.num_steps, start)]
        while ahead:
            first, last, state = ahead.pop()
            if last - first > SEGMENT:
                middle, at = (first + last) // 2, state
                for count in range(first, middle):
                    at = advance(count, at, False)
                ahead += [(first, middle, state), (middle, last, at)]
                continue
            states = [state]
            for count in range(first, last):
                states.append(advance(count, states[-1], True))
            after = states.pop()
            for count in range(last - 1, first - 1, -1):
                before = states.pop()
                yield count, before, after
                after = before

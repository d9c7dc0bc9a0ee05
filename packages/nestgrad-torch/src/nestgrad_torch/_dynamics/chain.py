"""The steps of a map from one point, each linearised on a graph of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from nestgrad import InvalidInput
from nestgrad_torch._dynamics.footprint import saved_bytes
from nestgrad_torch._dynamics.form import At, Form

Update = Callable[[Any], Any]
_State = TypeVar("_State")

SEGMENT = 16
"""Steps whose states are there at a time on the way back; also the most whose graphs are."""

ROOM = 2**26
"""Bytes that the graphs kept for another sweep may hold, or those of several products at once: what is large enough for
more is long at its sums, so that little is lost by taking steps again and products in turn."""


class Step:
    """One step: the place it leads to, and products with J = ∂Φ/∂x, all of them from one graph."""

    def __init__(self, form: Form, update: Update, at: At, rows: Rows) -> None:
        self._form, self._rows, self._enter = form, rows, at.vector.detach().requires_grad_()
        at.draws.again()
        after = form.moved(update(form.tree(At(self._enter, at.others, at.draws))), at.draws)
        self._leave, self._pulled = after.vector, None
        if not self._leave.requires_grad:
            raise self._unconnected()
        self.end = At(self._leave.detach(), after.others, after.draws)

    def held(self) -> int:
        """Bytes that the graph of products holds."""
        return saved_bytes(self._pulled_back()[1])

    def push(self, columns: Tensor) -> Tensor:
        """J columns, (n, m): the derivative, in u, of ⟨Jᵀu, column⟩."""
        dummy, pulled = self._pulled_back()
        pushed = self._rows.of(pulled, dummy, columns.T) if pulled.requires_grad else None
        return torch.zeros_like(columns) if pushed is None else pushed.T

    def pull(self, columns: Tensor) -> Tensor:
        """Jᵀ columns, (n, m)."""
        return self._pull(columns.T).T

    def adjoint(self, images: Tensor, columns: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """(Jᵀ images, Jᵀ end + ∂/∂x Σ_j ⟨image_j, J(x) column_j⟩): cotangents of the columns and of x."""
        outputs, seeds = [self._leave], [end]
        pulled = self._pull(images.T, create_graph=True)
        if pulled.requires_grad:
            outputs, seeds = [*outputs, pulled], [*seeds, columns.T]
        (slope,) = torch.autograd.grad(outputs, self._enter, seeds, retain_graph=True)
        return pulled.detach().T, slope

    def _pulled_back(self) -> tuple[Tensor, Tensor]:
        """(u, Jᵀu with the graph in u): made once."""
        if self._pulled is None:
            dummy = torch.zeros_like(self._leave, requires_grad=True)
            self._pulled = dummy, self._pull(dummy[None], create_graph=True)[0]
        return self._pulled

    def _pull(self, rows: Tensor, *, create_graph: bool = False) -> Tensor:
        pulled = self._rows.of(self._leave, self._enter, rows, create_graph=create_graph)
        if pulled is None:
            raise self._unconnected()
        return pulled

    def _unconnected(self) -> InvalidInput:
        return InvalidInput(
            f"{self._form.caller}: update's result has 0 paths from the point, limit: at least 1, as its derivative is "
            "asked for. Remedy: Play.update in the place of Play.step, or let update keep its graph."
        )


class Rows:
    """Derivatives of an output seeded with each of m rows.

    `most` of them at once where torch can, which is the same sums as in turn.
    """

    most = 1

    def of(self, output: Tensor, leaf: Tensor, rows: Tensor, *, create_graph: bool = False) -> Tensor | None:
        """(m, n), or None where no path leads from the leaf to the output."""
        if not len(rows):
            return rows
        found: list[Tensor | None] = []
        for part in rows.split(self.most):
            found += self._of(output, leaf, part, create_graph=create_graph)
        there = [row for row in found if row is not None]
        return torch.cat(there) if there else None

    def _of(self, output: Tensor, leaf: Tensor, rows: Tensor, *, create_graph: bool) -> list[Tensor | None]:
        if self.most > 1 and len(rows) > 1:
            try:
                return [_grad(output, leaf, rows, create_graph=create_graph, is_grads_batched=True)]
            except RuntimeError:
                # Of what is not written for batches, as a loop over data in a backward. What else is wrong, a lack of
                # second derivatives, is raised in turn.
                self.most = 1
        found = [_grad(output, leaf, row, create_graph=create_graph) for row in rows]
        return [None if row is None else row[None] for row in found]


def _grad(output: Tensor, leaf: Tensor, seed: Tensor, **how: bool) -> Tensor | None:
    return torch.autograd.grad(output, leaf, seed, retain_graph=True, allow_unused=True, **how)[0]


class Chain:
    """num_steps steps from a place; again: there will be several sweeps over them."""

    def __init__(self, form: Form, update: Update, start: At, num_steps: int, *, again: bool) -> None:
        self.form, self.start, self.num_steps = form, start, num_steps
        self._update, self._rows, self._kept = update, Rows(), dict[int, Step]()
        self._again = again and num_steps <= SEGMENT
        self._most: int | None = None

    def step(self, count: int, at: At, *, near: bool = False) -> Step:
        """Step `count`, which begins at this place; near: it will be asked for again soon."""
        found = self._kept.get(count)
        if found is None:
            found = Step(self.form, self._update, at, self._rows)
            most = self._room(found)
            if most and (near or self._again):
                while len(self._kept) >= most:
                    del self._kept[next(iter(self._kept))]
                self._kept[count] = found
        return found

    def _room(self, step: Step) -> int:
        """For how many graphs like the step's there is room; with the first, also for how many products at once."""
        if self._most is None:
            fit = ROOM // max(step.held(), 1)
            self._most, self._rows.most = min(SEGMENT, fit), max(1, fit)
        return self._most

    def backwards(
        self, start: _State, advance: Callable[[int, _State, bool], _State], *, vectors: int = 1
    ) -> Iterator[tuple[int, _State, _State]]:
        """(t, the state before step t, the state after it) from the last step to the first.

        advance(t, state, near) takes step t; vectors: of n entries that a state holds. States are recomputed from kept
        ones: of each stretch those at the ends of as many parts as there is room for, two at the least, so that without
        room there are log2(num_steps) of them and those of a segment at a time.
        """
        room = ROOM // (vectors * self.form.size * self.start.vector.element_size())
        ahead = [(0, self.num_steps, start)]
        while ahead:
            first, last, state = ahead.pop()
            if last - first > SEGMENT:
                parts = max(2, min(room, math.ceil((last - first) / SEGMENT)))
                ends = [first + (last - first) * part // parts for part in range(parts + 1)]
                for begin, end in itertools.pairwise(ends):
                    ahead.append((begin, end, state))
                    for count in range(begin, end if end < last else begin):
                        state = advance(count, state, False)
                continue
            states = [state]
            for count in range(first, last):
                states.append(advance(count, states[-1], True))
            after = states.pop()
            for count in range(last - 1, first - 1, -1):
                before = states.pop()
                yield count, before, after
                after = before

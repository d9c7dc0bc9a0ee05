"""Unrolled: the chain rule along the steps taken, from either end, each step with a graph of its own.

One graph a step, in every mode: so that a step taken again gives the bits of the first time, whether or not its graph
had been kept, and the sum runs in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nestgrad import Unrolled, tree
from nestgrad_torch._derivatives import Place, scalar_loss
from nestgrad_torch._modules import recomputation_refused
from nestgrad_torch._rules._call import METHODS, Call
from nestgrad_torch._rules._findings import Findings
from nestgrad_torch._rules._finish import Outcome, finish
from nestgrad_torch._rules.implicit import require_connected
from nestgrad_torch._rules.reversible import Undone
from nestgrad_torch._second_order import require_differentiable
from nestgrad_torch._steps import Draws, Moment, Pieces, Steps, traced
from nestgrad_torch._tree import flat


@METHODS.register(Unrolled)
def unrolled(spec: Unrolled, call: Call) -> Findings:
    """One run of num_steps, then the sum of the mode."""
    place = call.place()
    steps = Steps(call.problem.inner, call.point)
    start = steps.start(place.hparams, call.opt_state, place.weights)
    if spec.mode == "reversible":
        run = Undone(spec, call, place, steps, start)
    else:
        for t in range(spec.num_steps - spec.window):
            start = steps(start, place.hparams, call.batch(t)).detached()
        kind = _Forward if spec.mode == "forward" else _Reverse
        run = kind(spec, call, place, steps, start)
    end = run.end
    loss, slope, direct = outer_slopes(call, place, end)
    seeds, size = [[slope, *(torch.zeros_like(part) for part in end.parts()[1:])]], torch.linalg.vector_norm(slope)
    del slope, start  # so that on the way back nothing holds what was used up
    indirect, adjoint, connected = run.back(seeds.pop())
    require_connected(call.hparams, [a is not None or b for a, b in zip(direct, connected, strict=True)])
    found = Outcome(
        loss=loss,
        direct=direct,
        indirect=indirect,
        weights=end.weights,
        slope=size,
        adjoint=adjoint,
        optimality=run.last_move,
        steps=spec.num_steps,
        products=spec.window,
    )
    params = tree.map(torch.clone, call.point.plain(end.weights))
    return finish(call, found, params=params, opt_state=end.opt_state)


def outer_slopes(call: Call, place: Place, end: Moment) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """(L_out, ∂L_out/∂w, ∂L_out/∂λ) at the end of the run."""
    weights = end.weights.detach().requires_grad_()
    params = call.point.shape(weights, {name: buffer.clone() for name, buffer in end.buffers.items()})
    loss = scalar_loss(call.problem.outer_loss, "outer_loss", params, place.hparams, call.outer_batch)
    inputs = [weights, *place.leaves]
    pulled: tuple[Tensor | None, ...] = (None,) * len(inputs)
    if loss.requires_grad:
        require_differentiable(loss, call.point.module)
        with recomputation_refused(call.point.module):
            pulled = torch.autograd.grad(loss, inputs, allow_unused=True)
    value, slope, *direct = call.point.group.mean([loss.detach(), *pulled])
    return value, torch.zeros_like(weights) if slope is None else slope, direct


def move(before: Moment, after: Moment) -> Tensor:
    """|w_{t+1} - w_t|."""
    return torch.linalg.vector_norm(after.weights - before.weights)


@dataclass(slots=True)
class _Stored:
    """What a segment needs to be taken again."""

    first: int
    at: Moment
    draws: Draws


class _Reverse:
    """Reverse mode: graphs of the last segment are kept, those of the others made again from their first states."""

    def __init__(self, spec: Unrolled, call: Call, place: Place, steps: Steps, start: Moment) -> None:
        self._call, self._place, self._steps = call, place, steps
        self._bounds = range(spec.num_steps - spec.window, spec.num_steps, spec.segment)
        self._last = spec.num_steps
        self._stored: list[_Stored] = []
        self.end = start
        for first in self._bounds[:-1]:
            self._stored.append(_Stored(first, self.end, Draws(call.point)))
            for t in range(first, first + spec.segment):
                self.end = steps(self.end, place.hparams, call.batch(t)).detached()
        self._graphs, self.end, self.last_move = self._segment(self._bounds[-1], self._last, self.end)

    def back(self, adjoint: list[Tensor]) -> tuple[list[Tensor | None], Tensor, list[bool]]:
        """(Σ_t B_tᵀ a_{t+1}, a at the first step of the window in the weights, which hyperparameters have a path)."""
        total: list[Tensor | None] = [None] * len(self._place.leaves)
        graphs, last = self._graphs, self._bounds[-1]
        while True:
            while graphs:
                total, adjoint = _pulled(graphs.pop(), total, adjoint)
            if not self._stored:
                return total, adjoint[0], [part is not None for part in total]
            kept = self._stored.pop()
            kept.draws.again()
            graphs, _, _ = self._segment(kept.first, last, kept.at)
            last = kept.first

    def _segment(self, first: int, last: int, at: Moment) -> tuple[list[Pieces], Moment, Tensor]:
        graphs, before = [], at
        for t in range(first, last):
            before = at
            at, pieces = traced(self._steps, at, self._place.hparams, self._place.leaves, self._call.batch(t))
            graphs.append(pieces)
        return graphs, at, move(before, at)


def _pulled(
    graph: Pieces, total: list[Tensor | None], adjoint: list[Tensor]
) -> tuple[list[Tensor | None], list[Tensor]]:
    """(total + Bᵀ adjoint, Aᵀ adjoint) of one step; apart, so that neither outlives it as a name."""
    pulled, parts = graph.pull(adjoint)
    total = [_sum(a, b) for a, b in zip(total, parts, strict=True)]
    return total, [torch.zeros_like(a) if p is None else p for a, p in zip(adjoint, pulled, strict=True)]


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b


class _Forward:
    """Forward mode: one column of sensitivities a hyperparameter entry, carried along."""

    def __init__(self, spec: Unrolled, call: Call, place: Place, steps: Steps, start: Moment) -> None:
        self.end, self._leaves = start, place.leaves
        self._units = units(place.leaves)
        self._columns = [[torch.zeros_like(part) for part in start.parts()] for _ in self._units]
        self._connected = [False] * len(place.leaves)
        before = start
        for t in range(spec.num_steps - spec.window, spec.num_steps):
            before = self.end
            self.end, pieces = traced(steps, self.end, place.hparams, place.leaves, call.batch(t))
            self._columns = [pieces.push(z, e) for z, e in zip(self._columns, self._units, strict=True)]
            self._connected = [a or b for a, b in zip(self._connected, pieces.connected(), strict=True)]
        self.last_move = move(before, self.end)

    def back(self, adjoint: list[Tensor]) -> tuple[list[Tensor | None], None, list[bool]]:
        """(Zᵀ a_T, None, which hyperparameters have a path)."""
        vector = flat(adjoint)
        entries = [flat(column).dot(vector) for column in self._columns]
        joined = torch.stack(entries) if entries else vector.new_zeros(0)
        parts = joined.split([leaf.numel() for leaf in self._leaves])
        total = [part.view(leaf.shape) for part, leaf in zip(parts, self._leaves, strict=True)]
        return list(total), None, self._connected


def units(leaves: list[Tensor]) -> list[list[Tensor]]:
    """The unit directions, one for each entry of all leaves."""
    found = []
    for i, leaf in enumerate(leaves):
        for j in range(leaf.numel()):
            unit = torch.zeros_like(leaf).reshape(-1)
            unit[j] = 1.0
            zeros = [torch.zeros_like(other) for other in leaves]
            found.append([*zeros[:i], unit.reshape(leaf.shape), *zeros[i + 1 :]])
    return found

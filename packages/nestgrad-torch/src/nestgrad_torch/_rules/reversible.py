"""Reversible unrolling: weights and velocity in fixed point, so that every step can be undone to the bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nestgrad import InvalidInput, Unrolled, UnsupportedOptimizer, tree
from nestgrad_torch._derivatives import Place, functional_optimizer
from nestgrad_torch._rules._call import Call
from nestgrad_torch._steps import Draws, Moment, Pieces, Steps
from nestgrad_torch._tree import flat, split
from nestgrad_torch.optim._reversible import PARTS, RADIX, ReversibleSGD

_LARGEST = 2**61
"""Fixed-point weights above this (512) are refused, before an int64 overflows."""


class Undone:
    """The run forward, of which only the last state and the bits that rounding would lose are kept; and back."""

    def __init__(self, spec: Unrolled, call: Call, place: Place, steps: Steps, start: Moment) -> None:
        rule = functional_optimizer(call.problem.inner, place.hparams)
        if not isinstance(rule, ReversibleSGD):
            raise UnsupportedOptimizer(
                f"Unrolled(mode='reversible'): optimizer {type(rule).__name__}, limit: ReversibleSGD. "
                "Remedy: use nestgrad_torch.optim.reversible_sgd, or mode='reverse'."
            )
        self._spec, self._call, self._place, self._steps = spec, call, place, steps
        self._run = _FixedPoint(rule, call, start)
        self._start = self._run.copy()
        self._broken = False
        self._marks: list[tuple[Draws, dict[str, Tensor]]] = []
        at = self._run.moment(start)
        before = at
        for t in range(spec.num_steps):
            before = at
            self._marks.append((Draws(call.point, self._marks[-1][0] if self._marks else None), at.buffers))
            slope, buffers = self._slope(at, t)
            if not bool(slope.isfinite().all()):
                self.end = at.mapped(lambda part: torch.full_like(part, torch.nan))
                self.last_move = at.weights.new_tensor(torch.nan)
                self._broken = True
                return
            self._run.step(slope.detach())
            at = self._run.moment(Moment(at.weights, at.opt_state, buffers))
        self.end = at
        self.last_move = torch.linalg.vector_norm(at.weights - before.weights)

    def back(self, adjoint: list[Tensor]) -> tuple[list[Tensor | None], None, list[bool]]:
        """(Σ_t B_tᵀ a_{t+1}, None, which hyperparameters have a path); the start must come back bit for bit."""
        total: list[Tensor | None] = [None] * len(self._place.leaves)
        if self._broken:
            return [torch.full_like(h, torch.nan) for h in self._place.leaves], None, [True] * len(total)
        at = self.end
        for t in reversed(range(self._spec.num_steps)):
            draws, buffers = self._marks.pop()
            draws.again()
            self._run.undo_weights()
            at = self._run.moment(Moment(at.weights, at.opt_state, buffers)).as_leaves()
            slope, _ = self._slope(at, t)
            self._run.undo_velocity(slope.detach())
            if t < self._spec.num_steps - self._spec.window:
                continue
            velocity = [part.detach().requires_grad_() for part in self._run.velocities()]
            pulled, parts = self._pieces(at.weights, velocity, slope).pull(adjoint)
            total = [b if a is None else a if b is None else a + b for a, b in zip(total, parts, strict=True)]
            adjoint = [torch.zeros_like(a) if p is None else p for a, p in zip(adjoint, pulled, strict=True)]
        self._run.require(self._start)
        return total, None, [part is not None for part in total]

    def _slope(self, at: Moment, t: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The inner loss's gradient with its graph, and the buffers after the pass."""
        return self._steps.slope(at, self._place.hparams, self._call.batch(t))

    def _pieces(self, weights: Tensor, velocity: list[Tensor], slope: Tensor) -> Pieces:
        """The graph of one step in floating point, at the state that was restored."""
        point = self._call.point
        rule = functional_optimizer(self._call.problem.inner, self._place.hparams)
        params = point.plain(weights)
        state = {"velocity": tree.unflatten(params, velocity)}
        updates, after = rule.update(point.plain(slope), state, params)
        moved = weights + flat(tree.matched(params, updates)[0])
        leaving = [moved, *tree.matched(params, after["velocity"])[0]]
        return Pieces([weights, *velocity], leaving, self._place.leaves, point.group)


class _FixedPoint:
    """w and v as integers, one tensor a param; `lost` holds what dividing by 65536 leaves over."""

    def __init__(self, rule: ReversibleSGD, call: Call, start: Moment) -> None:
        point = call.point
        params = point.plain(start.weights)
        rates, betas = rule.settings(params)
        self._like = tree.leaves(params)
        device = self._like[0].device
        self._rates, exact = ([torch.as_tensor(x).detach().double().to(device) for x in row] for row in (rates, betas))
        self._parts = [torch.round(PARTS * beta).to(torch.int64) for beta in exact]
        self._rests = [1.0 - n.double() / PARTS for n in self._parts]
        self.weights = [_fixed(w) for w in self._like]
        self.velocity = [_fixed(v) for v in tree.matched(params, start.opt_state["velocity"])[0]]
        self._structure: Any = params
        self._lost = [_Bits(w) for w in self.weights]
        self._require_small()

    def step(self, slope: Tensor) -> None:
        """v ← β v - (1 - β) g, w ← w + α v."""
        for i, g in enumerate(self._split(slope)):
            self.velocity[i] = self._lost[i].scale(self.velocity[i], self._parts[i], PARTS)
            self.velocity[i] = self.velocity[i] - _fixed(self._rests[i] * g.double())
            self.weights[i] = self.weights[i] + self._increment(i)
        self._require_small()

    def undo_weights(self) -> None:
        """w ← w - α v."""
        for i in range(len(self.weights)):
            self.weights[i] = self.weights[i] - self._increment(i)

    def undo_velocity(self, slope: Tensor) -> None:
        """v ← (v + (1 - β) g) / β."""
        for i, g in enumerate(self._split(slope)):
            velocity = self.velocity[i] + _fixed(self._rests[i] * g.double())
            self.velocity[i] = self._lost[i].unscale(velocity, self._parts[i], PARTS)

    def moment(self, like: Moment) -> Moment:
        """The state in floating point, with the buffers of `like`."""
        state = {"velocity": tree.unflatten(self._structure, self.velocities())}
        return Moment(flat(self._floats(self.weights)), state, like.buffers)

    def velocities(self) -> list[Tensor]:
        """v in floating point."""
        return self._floats(self.velocity)

    def copy(self) -> list[Tensor]:
        """The integers."""
        return [x.clone() for x in (*self.weights, *self.velocity)]

    def require(self, start: list[Tensor]) -> None:
        """Raise InvalidInput unless the integers are those of the start and no lost bit is left."""
        odd = sum(int((a != b).sum()) for a, b in zip(start, (*self.weights, *self.velocity), strict=True))
        odd += sum(lost.left() for lost in self._lost)
        if odd:
            raise InvalidInput(
                f"Unrolled(mode='reversible'): {odd} entries of the start differ after the steps were undone, limit 0. "
                "Remedy: make the inner loss give the same bits for the same input, or use mode='reverse'."
            )

    def _increment(self, i: int) -> Tensor:
        return _fixed(self._rates[i] * (self.velocity[i].double() / RADIX))

    def _floats(self, fixed: list[Tensor]) -> list[Tensor]:
        return [(x.double() / RADIX).to(like.dtype) for x, like in zip(fixed, self._like, strict=True)]

    def _split(self, slope: Tensor) -> list[Tensor]:
        return split(slope, self._like)

    def _require_small(self) -> None:
        largest = max(float(x.abs().max()) for x in (*self.weights, *self.velocity) if x.numel())
        if not largest <= _LARGEST:
            raise InvalidInput(
                f"Unrolled(mode='reversible'): a weight or velocity of size {largest / RADIX:.3g}, limit: "
                f"{_LARGEST / RADIX:g}, the range of its fixed point. Remedy: a lower learning rate, or mode='reverse'."
            )


class _Bits:
    """What rounding takes from x · n / d, kept exactly: an integer an entry, set aside before it overflows.

    y = ⌊x n / d⌋ and ρ = x n - y d. Given y, ρ is known modulo n, so k = ⌊ρ / n⌋ < ⌈d / n⌉ tells all: a bit a step for
    momenta from a half up.
    """

    def __init__(self, like: Tensor) -> None:
        self._now = torch.zeros_like(like)
        self._aside: list[tuple[int, Tensor]] = []
        self._count = 0

    def scale(self, x: Tensor, n: Tensor, d: int) -> Tensor:
        """⌊x n / d⌋."""
        rest = torch.remainder(x, d) * n
        self._push(torch.remainder(rest, d) // n, _base(n, d))
        return (x // d) * n + rest // d

    def unscale(self, y: Tensor, n: Tensor, d: int) -> Tensor:
        """The x that `scale` was given, last in first out."""
        low = torch.remainder(y, n)
        rest = torch.remainder(-low * d, n) + self._pop(_base(n, d)) * n
        return (y // n) * d + (low * d + rest) // n

    def left(self) -> int:
        """Entries with bits that no step took back."""
        return int((self._now != 0).sum())

    def _push(self, digit: Tensor, base: Tensor) -> None:
        self._count += 1
        if bool((self._now >= 2**62 // base).any()):
            self._aside.append((self._count, self._now))
            self._now = torch.zeros_like(self._now)
        self._now = self._now * base + digit

    def _pop(self, base: Tensor) -> Tensor:
        digit = torch.remainder(self._now, base)
        self._now = self._now // base
        if self._aside and self._aside[-1][0] == self._count:
            self._now = self._now + self._aside.pop()[1]  # what is left is zero, unless a step was undone wrongly
        self._count -= 1
        return digit


def _base(n: Tensor, d: int) -> Tensor:
    return (d + n - 1) // n


def _fixed(x: Tensor) -> Tensor:
    """The nearest multiple of 2⁻⁵², as an integer."""
    return torch.round(x.detach().double() * RADIX).to(torch.int64)

"""What the core's search asks of a backend, by playing a game and by exponents of its steps."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nestgrad import (
    Ascent,
    Branching,
    Cost,
    Descent,
    ExponentSpectrum,
    LyapunovExponents,
    PlayState,
    Ridge,
    Spread,
    tree,
)
from nestgrad_torch._dynamics.entry import lyapunov_exponents, lyapunov_gradient
from nestgrad_torch._games.point import Point
from nestgrad_torch.tuners._common import stepped, with_gradients
from nestgrad_torch.tuners.play import Play


class PlayExplorer:
    """Explores the states of a play, whose steps all have the same batch; throw: of exponents, and of solves."""

    def __init__(self, play: Play, branching: Branching, batch: Any, *, throw: bool) -> None:
        self._play, self._how, self._batch, self._throw = play, branching, batch, throw

    def begin(self, players: Any) -> PlayState:
        """The state of play at the players."""
        return self._play.init(players)

    def mean_loss(self, state: PlayState) -> float:
        """Of all players."""
        point = Point(self._play.game, state["players"], self._batch, audit=False)
        losses = [with_gradients(point.loss, which).detach() for which in range(len(point.names))]
        return float(torch.stack(losses).mean())

    def ascend(self, state: PlayState, ascent: Ascent, seed: int) -> tuple[PlayState, Cost]:
        """Up the objective in the players alone, the optimizers of play beginning anew at each point."""
        players, products, updates = state["players"], 0, 0
        inner = ascent.optimizer.init(players)
        for _ in range(ascent.steps):
            at = self.begin(players)
            found = lyapunov_gradient(
                self._update,
                at,
                num_steps=self._how.num_steps,
                objective=ascent.objective,
                method=self._method(at, ascent.num_exponents, seed),
                throw=self._throw,
            )
            products, updates = products + found.products, updates + self._how.num_steps
            down = tree.map(torch.neg, found.gradient["players"])
            players, inner = stepped(ascent.optimizer, down, inner, players)
        return self.begin(players), Cost(products=products, updates=updates)

    def spread(self, state: PlayState, num_exponents: int, seed: int) -> Spread:
        """The leading exponents, the largest first, and their directions."""
        found = self._exponents(state, self._method(state, num_exponents, seed), None)
        numbers = found.exponents.tolist()
        order = sorted(range(len(numbers)), key=lambda which: -_ranked(numbers[which]))
        return Spread(
            exponents=[numbers[which] for which in order],
            directions=tree.map(lambda rows: rows[order], found.directions),
            cost=self._cost(found),
        )

    def moved(self, state: PlayState, directions: Any, which: int, distance: float) -> PlayState:
        """state + distance · d_which."""
        return _added(state, _row(directions, which), distance)

    def ride(self, state: PlayState, directions: Any, which: int, sign: int) -> tuple[PlayState, int, Cost]:
        """(the state at the end of the ridge, its steps, the cost); one host read a step."""
        ridge, least = self._how.ridge, self._how.least_exponent
        assert isinstance(ridge, Ridge)  # noqa: S101  (as the entry has directions, and the spec was checked)
        assert least is not None  # noqa: S101  (likewise)
        method, steps, cost = ExponentSpectrum(refinements=self._how.refinements), 0, Cost()
        direction, exponent = tree.map(lambda rows: sign * rows, _row(directions, which)), math.inf
        while exponent > least and steps < ridge.max_steps:
            state, steps = _added(state, direction, ridge.step_size), steps + 1
            found = self._exponents(state, method, directions)
            cost = Cost(products=cost.products + found.products, updates=cost.updates + self._how.num_steps)
            directions = found.directions
            exponents, overlaps = torch.stack([found.exponents, _overlaps(directions, direction)]).tolist()
            nearest = max(range(len(overlaps)), key=lambda i: abs(overlaps[i]))
            exponent, towards = exponents[nearest], -1.0 if overlaps[nearest] < 0.0 else 1.0
            direction = tree.map(lambda rows, s=towards: s * rows, _row(directions, nearest))
        return state, steps, cost

    def descend(self, state: PlayState, max_steps: int) -> Descent:
        """Optimise until |direction| is ≤ tolerance or not finite, or for max_steps; one host read a step."""
        steps = 0
        while True:
            losses, size, after = self._play.seen(state, self._batch)
            norm = float(size)
            if norm <= self._how.tolerance or not math.isfinite(norm) or steps == max_steps:
                break
            state, steps = after(), steps + 1
        numbers = {name: float(loss) for name, loss in losses.items()}
        return Descent(state=state, losses=numbers, direction_norm=norm, steps=steps, cost=Cost(updates=steps))

    def _update(self, state: PlayState) -> PlayState:
        return self._play.update(state, self._batch)

    def _method(self, state: PlayState, num_exponents: int, seed: int) -> ExponentSpectrum:
        entries = sum(leaf.numel() for leaf in tree.leaves(state) if _is_floating(leaf))
        count = min(num_exponents, entries)
        return ExponentSpectrum(num_exponents=count, refinements=self._how.refinements, seed=seed)

    def _exponents(self, state: PlayState, method: ExponentSpectrum, directions: Any) -> LyapunovExponents:
        return lyapunov_exponents(
            self._update,
            state,
            num_steps=self._how.num_steps,
            method=method,
            directions=directions,
            throw=self._throw,
        )

    def _cost(self, found: LyapunovExponents) -> Cost:
        return Cost(products=found.products, updates=self._how.num_steps)


def _row(directions: Any, which: int) -> Any:
    return tree.map(lambda rows: rows[which], directions)


def _added(state: PlayState, direction: Any, distance: float) -> PlayState:
    """state + distance · direction; leaves of integers stay."""
    return tree.map(
        lambda leaf, d: torch.add(leaf, d, alpha=distance) if _is_floating(leaf) else leaf, state, direction
    )


def _overlaps(directions: Any, direction: Any) -> Tensor:
    """⟨d_i, direction⟩ over all leaves, (m,)."""
    rows, (parts,) = tree.leaves(directions), tree.matched(directions, direction)
    products = [row.reshape(len(row), -1) @ part.reshape(-1) for row, part in zip(rows, parts, strict=True)]
    return torch.stack(products).sum(0)


def _ranked(exponent: float) -> float:
    """NaN after all others."""
    return -math.inf if math.isnan(exponent) else exponent


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()

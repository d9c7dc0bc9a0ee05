"""Branching optimisation by dense float64 algebra; nestgrad._dynamics.branching and .search define each step."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import (
    Ascent,
    Branching,
    Cost,
    Descent,
    Direction,
    ExponentSpectrum,
    Game,
    InvalidInput,
    LyapunovExponents,
    NonFinite,
    PlayInfo,
    PlayState,
    SearchInfo,
    SearchState,
    Simultaneous,
    Spread,
    Turns,
    begin_search,
    search_step,
    tree,
    why_stopped,
)
from nestgrad_reference.dynamics._exponents import lyapunov_exponents
from nestgrad_reference.dynamics._gradient import lyapunov_gradient
from nestgrad_reference.dynamics._map import StepMap
from nestgrad_reference.games._directions import direct
from nestgrad_reference.games._field import Field
from nestgrad_reference.tuners._common import norm, require_optimizer
from nestgrad_reference.tuners.play import Play


class BranchingSearch:
    """Look for several solutions: branch where nearby points part, and optimise each branch by playing the game.

    optimizer, direction and turns are those of Play; branching says where to branch and when to stop. batch: that of
    every step. throw: raise NonFinite where exponents or their derivatives are not finite, and the errors of linear
    solves; a branch that is not finite where it ends is lost, and told of, in either case. (Lorraine et al. 2022.)
    """

    def __init__(
        self,
        game: Game,
        *,
        optimizer: Any,
        branching: Branching,
        direction: Direction = Simultaneous(),  # noqa: B008  (frozen)
        turns: Turns = "simultaneous",
        batch: Any = None,
        throw: bool = True,
    ) -> None:
        if not isinstance(branching, Branching):
            raise InvalidInput(
                f"BranchingSearch.branching: got {branching!r}, limit: a Branching. Remedy: Branching(distance=0.01)."
            )
        if branching.ascent is not None:
            require_optimizer("BranchingSearch.branching.ascent.optimizer", branching.ascent.optimizer)
        self.play = Play(game, optimizer=optimizer, direction=direction, turns=turns, throw=throw)
        self.branching, self._explorer = branching, _Explorer(self.play, branching, batch)

    def init(self, starts: list[Any]) -> SearchState:
        """An archive of the starts, each a mapping of players to their params."""
        return begin_search(self._explorer, starts)

    def step(self, state: SearchState) -> tuple[SearchState, SearchInfo]:
        """Take one entry of the archive; the state passed in is not changed, and the same where the search is over."""
        return search_step(self._explorer, self.branching, state)

    def run(self, state: SearchState) -> SearchState:
        """Steps until the archive is empty, or a budget is spent."""
        while not self.finished(state):
            state, _ = self.step(state)
        return state

    def finished(self, state: SearchState) -> str:
        """Why the search is over, as in SearchInfo.stopped; "" while it is not."""
        return why_stopped(self.branching, state)

    def __repr__(self) -> str:
        return f"BranchingSearch({self.play}, branching={self.branching})"


class _Explorer:
    """What the core's search asks of a backend."""

    def __init__(self, play: Play, branching: Branching, batch: Any) -> None:
        self._play, self._how, self._batch = play, branching, batch
        self._lenient = Play(
            play.game, optimizer=play.optimizers, direction=play.direction, turns=play.turns, throw=False
        )

    def begin(self, players: Any) -> PlayState:
        """The state of play at the players."""
        return self._play.init(players)

    def mean_loss(self, state: PlayState) -> float:
        """Of all players."""
        field = Field(self._play.game, state["players"], self._batch)
        return float(np.mean(list(field.losses(field.vector).values())))

    def ascend(self, state: PlayState, ascent: Ascent, seed: int) -> tuple[PlayState, Cost]:
        """Up the objective in the players alone, the optimizer's state at each point a new one."""
        rule, players = ascent.optimizer, state["players"]
        inner, products, updates = rule.init(players), 0, 0
        for _ in range(ascent.steps):
            at = self.begin(players)
            found = lyapunov_gradient(
                self._update,
                at,
                num_steps=self._how.num_steps,
                objective=ascent.objective,
                method=self._method(at, ascent.num_exponents, seed),
                throw=self._play.throw,
            )
            products, updates = products + found.products, updates + self._how.num_steps
            down = tree.map(np.negative, found.gradient["players"])
            moves, inner = rule.update(down, inner, players)
            players = tree.map(np.add, players, moves)
        return self.begin(players), Cost(products=products, updates=updates)

    def spread(self, state: PlayState, num_exponents: int, seed: int) -> Spread:
        """The leading exponents, the largest first, and their directions."""
        found = self._exponents(state, self._method(state, num_exponents, seed), None)
        order = np.argsort(-found.exponents, kind="stable")
        return Spread(
            exponents=[float(found.exponents[which]) for which in order],
            directions=tree.map(lambda leaf: leaf[order], found.directions),
            cost=Cost(products=found.products, updates=self._how.num_steps),
        )

    def moved(self, state: PlayState, directions: Any, which: int, distance: float) -> PlayState:
        """state + distance · d_which; leaves that have no directions stay."""
        return tree.map(lambda leaf, rows: _moved(leaf, distance * rows[which]), state, directions)

    def ride(self, state: PlayState, directions: Any, which: int, sign: int) -> tuple[PlayState, int, Cost]:
        """(the state at the end of the ridge, its steps, the cost)."""
        ridge, least = self._how.ridge, self._how.least_exponent
        if ridge is None or least is None:
            raise InvalidInput("Branching.ridge: got None, limit: a Ridge. Remedy: pass ridge=Ridge(step_size=0.01).")
        method, cost = ExponentSpectrum(refinements=self._how.refinements), Cost()
        direction = tree.map(lambda rows: sign * rows[which], directions)
        for step in range(1, ridge.max_steps + 1):
            state = tree.map(lambda leaf, d: _moved(leaf, ridge.step_size * d), state, direction)
            found = self._exponents(state, method, directions)
            cost = Cost(products=cost.products + found.products, updates=cost.updates + self._how.num_steps)
            directions = found.directions
            overlaps = _overlaps(directions, direction)
            nearest = int(np.argmax(np.abs(overlaps)))
            aligned = -1.0 if overlaps[nearest] < 0.0 else 1.0
            direction = tree.map(lambda rows, a=aligned, k=nearest: a * rows[k], directions)
            if not found.exponents[nearest] > least:
                return state, step, cost
        return state, ridge.max_steps, cost

    def descend(self, state: PlayState, max_steps: int) -> Descent:
        """Optimise until |direction| is ≤ tolerance or not finite, or for max_steps; of the state returned."""
        steps = 0
        while True:
            after, info = self._step(state)
            size = float(info.direction_norm)
            if size <= self._how.tolerance or not np.isfinite(size) or steps == max_steps:
                break
            state, steps = after, steps + 1
        losses = {name: float(loss) for name, loss in info.losses.items()}
        return Descent(state=state, losses=losses, direction_norm=size, steps=steps, cost=Cost(updates=steps))

    def _step(self, state: PlayState) -> tuple[PlayState, PlayInfo]:
        """A move, and what is seen where it begins: in turn too, the losses and the whole direction there."""
        try:
            after, info = self._play.step(state, self._batch)
        except NonFinite:
            after, info = self._lenient.step(state, self._batch)
        if self._play.turns == "simultaneous":
            return after, info
        here = direct(Field(self._play.game, state["players"], self._batch), self._play.direction, throw=False)
        return after, PlayInfo(losses=here.losses, direction_norm=norm(here.direction))

    def _update(self, state: PlayState) -> PlayState:
        return self._play.update(state, self._batch)

    def _method(self, state: PlayState, num_exponents: int, seed: int) -> ExponentSpectrum:
        most = StepMap("BranchingSearch", self._update, state).size
        return ExponentSpectrum(num_exponents=min(num_exponents, most), refinements=self._how.refinements, seed=seed)

    def _exponents(self, state: PlayState, method: ExponentSpectrum, directions: Any) -> LyapunovExponents:
        return lyapunov_exponents(
            self._update,
            state,
            num_steps=self._how.num_steps,
            method=method,
            directions=directions,
            throw=self._play.throw,
        )


def _moved(leaf: Any, by: np.ndarray) -> Any:
    return np.asarray(leaf + by) if np.issubdtype(np.asarray(leaf).dtype, np.floating) else leaf


def _overlaps(directions: Any, direction: Any) -> np.ndarray:
    """⟨d_i, direction⟩ of each row, over all leaves."""
    pairs = zip(tree.leaves(directions), tree.leaves(direction), strict=True)
    return sum((rows.reshape(len(rows), -1) @ d.reshape(-1) for rows, d in pairs), start=np.zeros(()))

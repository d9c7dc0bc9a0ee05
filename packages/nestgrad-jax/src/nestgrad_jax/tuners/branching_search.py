"""Branching optimisation in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
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
    NonFinite,
    Ridge,
    SearchInfo,
    SearchState,
    Spread,
    Stats,
    Status,
    Turns,
    begin_search,
    search_step,
    why_stopped,
)
from nestgrad_jax._calls import require_hashable
from nestgrad_jax._dynamics import branches
from nestgrad_jax._dynamics.exponents import compiled_exponents, require_measured
from nestgrad_jax._dynamics.flow import Form
from nestgrad_jax._explain import explained
from nestgrad_jax._games.directions import PLAIN
from nestgrad_jax._tree import as_key, check_arguments
from nestgrad_jax.tuners._leaves import require_outer_optimizer
from nestgrad_jax.tuners.play import Play


class BranchingSearch:
    """Many solutions of a game, from where nearby points of play part; nestgrad._dynamics.branching defines each step.

    optimizer, direction, turns: as in Play. batch: the same for all steps. throw: raise NonFinite where exponents, or
    their derivative in an ascent, are not finite; else such are NaN and lead nowhere. A branch whose end is not finite
    is lost and raises nothing. Each kind of step is one program, compiled once. (Lorraine et al. 2022.)
    """

    def __init__(
        self,
        game: Game,
        *,
        optimizer: Any,
        branching: Branching,
        direction: Direction = PLAIN,
        turns: Turns = "simultaneous",
        batch: Any = None,
        throw: bool = True,
    ) -> None:
        self.play = Play(game, optimizer=optimizer, direction=direction, turns=turns)
        if not isinstance(branching, Branching):
            raise InvalidInput(
                f"BranchingSearch.branching: got {branching!r}, limit: a Branching. Remedy: Branching(distance=0.1)."
            )
        if branching.ascent is not None:
            require_outer_optimizer("BranchingSearch", branching.ascent.optimizer, "branching.ascent.optimizer")
        require_hashable("BranchingSearch", branching=branching)
        check_arguments(batch=batch)
        self.branching, self.batch, self.throw = branching, batch, throw
        self._explorer = _Explorer(self.play, branching, batch, throw=throw)

    def __repr__(self) -> str:
        return f"BranchingSearch({self.play!r}, {self.branching!r})"

    def init(self, starts: list[Any]) -> SearchState:
        """An archive of the starts. starts: a list of players, {name: pytree of floating arrays}, copied."""
        return begin_search(self._explorer, starts)

    def step(self, state: SearchState) -> tuple[SearchState, SearchInfo]:
        """What the first entry of the archive asks; the state passed in is not changed."""
        with explained("BranchingSearch.step", batch=self.batch):
            return search_step(self._explorer, self.branching, state)

    def run(self, state: SearchState) -> SearchState:
        """Steps until the search is over; `finished` says why."""
        while not self.finished(state):
            state, _ = self.step(state)
        return state

    def finished(self, state: SearchState) -> str:
        """What ended the search: "archive empty", "products" or "branches"; "" while it goes on."""
        return why_stopped(self.branching, state)


class _Explorer:
    """The core's Explorer on states of play in JAX."""

    def __init__(self, play: Play, how: Branching, batch: Any, *, throw: bool) -> None:
        self._play, self._how, self._batch, self._throw = play, how, batch, throw

    def begin(self, players: Any) -> Any:
        return self._play.init(players)

    def mean_loss(self, state: Any) -> float:
        return float(branches.mean_loss(self._play.moves, state, self._batch))

    def ascend(self, state: Any, ascent: Ascent, seed: int) -> tuple[Any, Cost]:
        how, method = self._how, self._method(state, ascent.num_exponents)
        after, bad = branches.ascended(
            self._play.moves, how.num_steps, method, ascent, state["players"], as_key(seed), self._batch
        )
        if self._throw and int(bad) >= 0:
            raise NonFinite(
                f"BranchingSearch: ascent step {int(bad)} of {ascent.steps}: derivative of {ascent.objective!r} has 1 "
                "entry or more that is NaN or infinite, limit 0. Remedy: begin elsewhere, or ascend by smaller steps.",
                Status.NONFINITE,
                Stats(),
            )
        count = method.num_exponents or 0
        products = ascent.steps * how.num_steps * count * (2 * how.refinements + 3)
        return after, Cost(products=products, updates=ascent.steps * how.num_steps)

    def spread(self, state: Any, num_exponents: int, seed: int) -> Spread:
        how, method = self._how, self._method(state, num_exponents)
        found, measured = compiled_exponents(
            self._play.moves, how.num_steps, method, state, None, as_key(seed), (self._batch,)
        )
        if self._throw:
            require_measured("BranchingSearch", measured, method, how.num_steps)
        exponents = np.asarray(found.exponents, np.float64)
        order = np.argsort(-exponents, kind="stable")
        directions = jax.tree.map(lambda leaf: leaf[jnp.asarray(order)], found.directions)
        return Spread(
            exponents=exponents[order].tolist(),
            directions=directions,
            cost=Cost(products=int(found.products), updates=how.num_steps),
        )

    def moved(self, state: Any, directions: Any, which: int, distance: float) -> Any:
        return branches.moved(Form.of(state), state, directions, *_numbers(state, which, distance))

    def ride(self, state: Any, directions: Any, which: int, sign: int) -> tuple[Any, int, Cost]:
        how = self._how
        if how.ridge is None or how.least_exponent is None:
            raise InvalidInput("BranchingSearch: a branch with directions, limit: 0 without a Ridge. Remedy: pass one.")
        ridge: Ridge = how.ridge
        count = len(jax.tree.leaves(directions)[0])
        after, steps = branches.ridden(
            self._play.moves,
            how.num_steps,
            ExponentSpectrum(num_exponents=count, refinements=how.refinements),
            state,
            directions,
            *_numbers(state, which, sign * ridge.step_size, how.least_exponent),
            jnp.asarray(ridge.max_steps, jnp.int32),
            self._batch,
        )
        taken = int(steps) * how.num_steps
        return after, int(steps), Cost(products=taken * count * (2 * how.refinements + 1), updates=taken)

    def descend(self, state: Any, max_steps: int) -> Descent:
        found = branches.descended(
            self._play.moves,
            state,
            self._batch,
            jnp.asarray(max_steps, jnp.int32),
            *_numbers(state, 0, self._how.tolerance)[1:],
        )
        losses, norm, steps = jax.device_get((found.losses, found.norm, found.steps))
        return Descent(
            state=found.state,
            losses={name: float(losses[name]) for name in self._play.game.names},
            direction_norm=float(norm),
            steps=int(steps),
            cost=Cost(updates=int(steps)),
        )

    def _method(self, state: Any, num_exponents: int) -> ExponentSpectrum:
        count = min(num_exponents, Form.of(state).size)
        return ExponentSpectrum(num_exponents=count, refinements=self._how.refinements)


def _numbers(state: Any, which: int, *others: float) -> list[Any]:
    """A place, and numbers in the dtype of the players, as arguments that compile once for all values."""
    kind = jax.tree.leaves(state["players"])[0].dtype
    return [jnp.asarray(which, jnp.int32), *(jnp.asarray(each, kind) for each in others)]

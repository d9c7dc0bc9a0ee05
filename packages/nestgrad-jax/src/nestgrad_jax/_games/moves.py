"""How players move: what they descend at a state of play, and one optimizer step on it, at once or in turn; traced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from jax import Array

from nestgrad import Direction, Game, PlayState, Simultaneous, Turns
from nestgrad_jax._games.directions import DIRECTIONS, Found
from nestgrad_jax._games.field import Field
from nestgrad_jax._solvers._common import Solve
from nestgrad_jax._tree import check_matching, moved_by


class Moved(NamedTuple):
    """The state after a move, and what was seen on the way: losses and directions by player, and linear solves."""

    state: PlayState
    losses: dict[str, Array]
    direction: dict[str, Any]
    solves: list[Solve]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Moves:
    """What a state of play becomes; called, the state alone. rules: each player's optimizer by name.

    Two are equal where games, directions and turns are, and the optimizers are the same objects, as some hold arrays.
    """

    game: Game
    rules: dict[str, Any]
    direction: Direction
    turns: Turns

    def __call__(self, state: PlayState, batch: Any = None) -> PlayState:
        """One move of each player."""
        return self.taken(state, batch).state

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Moves) and self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())

    def _parts(self) -> tuple[Any, ...]:
        return self.game, tuple(map(id, self.rules.values())), self.direction, self.turns

    def init(self, players: Any, step: Any) -> PlayState:
        """Play at these players by optimizers that have not moved yet."""
        opt_state = {name: rule.init(players[name]) for name, rule in self.rules.items()}
        return {"players": players, "opt_state": opt_state, "step": step}

    def look(self, state: PlayState, batch: Any) -> Found:
        """What all players would descend if they moved now."""
        check_matching(state["players"], title="players", batch=batch)
        return DIRECTIONS(self.direction, Field(self.game, batch), state["players"])

    def taken(self, state: PlayState, batch: Any) -> Moved:
        """One move of each player, with what was seen."""
        if self.turns == "alternating":
            return self.in_turn(state, batch)
        found = self.look(state, batch)
        solves = [] if found.solve is None else [found.solve]
        return Moved(self.at_once(found.direction, state), found.losses, found.direction, solves)

    def at_once(self, direction: Any, state: PlayState) -> PlayState:
        """All players move along this direction."""
        moved = {name: self._moved(name, direction[name], state, state["players"]) for name in self.game.names}
        players, opt_state = ({name: pair[part] for name, pair in moved.items()} for part in (0, 1))
        return {"players": players, "opt_state": opt_state, "step": state["step"] + 1}

    def in_turn(self, state: PlayState, batch: Any) -> Moved:
        """Players move one after another, each on what it descends at the params that those before it have reached."""
        check_matching(state["players"], title="players", batch=batch)
        field, players, opt_state = Field(self.game, batch), dict(state["players"]), dict(state["opt_state"])
        losses: dict[str, Array] = {}
        direction: dict[str, Any] = {}
        solves: list[Solve] = []
        for name in self.game.names:
            if isinstance(self.direction, Simultaneous):
                losses[name], direction[name] = field.slope(name, players)
            else:
                found = DIRECTIONS(self.direction, field, players)
                losses[name], direction[name] = found.losses[name], found.direction[name]
                solves += [] if found.solve is None else [found.solve]
            players[name], opt_state[name] = self._moved(name, direction[name], state, players)
        after: PlayState = {"players": players, "opt_state": opt_state, "step": state["step"] + 1}
        return Moved(after, losses, direction, solves)

    def _moved(self, name: str, direction: Any, state: PlayState, players: Any) -> tuple[Any, Any]:
        """(params, optimizer state) of one player after its move."""
        updates, after = self.rules[name].update(direction, state["opt_state"][name], players[name])
        return moved_by(players[name], updates), after

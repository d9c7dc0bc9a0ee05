"""Playing a game in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import Direction, Game, PlayInfo, PlayState, Simultaneous, Turns, check_play
from nestgrad_jax._calls import require_hashable
from nestgrad_jax._explain import explained
from nestgrad_jax._games.directions import DIRECTIONS, PLAIN
from nestgrad_jax._games.field import Field, as_players, settled
from nestgrad_jax._games.outcome import finite, require_found
from nestgrad_jax._solvers._common import Solve
from nestgrad_jax._tree import check_arguments, check_matching, is_traced, moved_by, tree_norm
from nestgrad_jax.tuners._leaves import require_outer_optimizer


class Play:
    """All players move by an optimizer each, at once or in turn; nestgrad._games.play defines each step.

    optimizer: an optax transformation for all players, or {player: one}. direction: what they descend. turns:
    "simultaneous" or "alternating". throw: raise where a direction is not finite, or its solve failed; under a user's
    own jit nothing can be raised, and such players become NaN. `step` is pure and jitted, and may be the body of a
    lax.scan.
    """

    def __init__(
        self,
        game: Game,
        *,
        optimizer: Any,
        direction: Direction = PLAIN,
        turns: Turns = "simultaneous",
        throw: bool = True,
    ) -> None:
        self.rules = check_play(game, optimizer, direction, turns)
        require_hashable("Play", game=game)
        for rule in self.rules.values():
            require_outer_optimizer("Play", rule, "optimizer")
        self.game, self.direction, self.turns, self.throw = game, direction, turns, throw
        self._jitted = jax.jit(self._step)

    def __repr__(self) -> str:
        return f"Play({', '.join(self.game.names)}, direction={self.direction!r}, turns={self.turns!r})"

    def init(self, players: Any) -> PlayState:
        """The state before the first step. players: {name: pytree of floating arrays}, copied."""
        weights = jax.tree.map(jnp.array, settled(as_players(self.game, players)))
        return {
            "players": weights,
            "opt_state": {name: rule.init(weights[name]) for name, rule in self.rules.items()},
            "step": jnp.zeros((), jnp.int32),
        }

    def step(self, state: PlayState, batch: Any = None) -> tuple[PlayState, PlayInfo]:
        """Every player moves once; the state passed in is not changed."""
        check_arguments(batch=batch)
        with explained("Play.step", players=state["players"], batch=batch):
            after, info, fine, solves = self._jitted(state, batch)
        if self.throw and not is_traced((after, fine)):
            require_found("Play.step", self.game, self.direction, fine, solves)
        return after, info

    def _step(self, state: PlayState, batch: Any) -> tuple[PlayState, PlayInfo, Array, list[Solve]]:
        check_matching(state["players"], title="players", batch=batch)
        moves = self._in_turn if self.turns == "alternating" else self._at_once
        players, opt_state, losses, direction, solves = moves(Field(self.game, batch), state)
        after: PlayState = {"players": players, "opt_state": opt_state, "step": state["step"] + 1}
        info = PlayInfo(losses=losses, direction_norm=tree_norm(direction))
        return after, info, finite(self.game, direction), solves

    def _at_once(self, field: Field, state: PlayState) -> tuple[Any, Any, Any, Any, list[Solve]]:
        found = DIRECTIONS(self.direction, field, state["players"])
        moved = {name: self._moved(name, found.direction[name], state, state["players"]) for name in self.game.names}
        players, opt_state = ({name: pair[part] for name, pair in moved.items()} for part in (0, 1))
        return players, opt_state, found.losses, found.direction, [] if found.solve is None else [found.solve]

    def _in_turn(self, field: Field, state: PlayState) -> tuple[Any, Any, Any, Any, list[Solve]]:
        players, opt_state, solves = dict(state["players"]), dict(state["opt_state"]), []
        losses: dict[str, Array] = {}
        direction: dict[str, Any] = {}
        for name in self.game.names:
            if isinstance(self.direction, Simultaneous):
                losses[name], direction[name] = field.slope(name, players)
            else:
                found = DIRECTIONS(self.direction, field, players)
                losses[name], direction[name] = found.losses[name], found.direction[name]
                solves += [] if found.solve is None else [found.solve]
            players[name], opt_state[name] = self._moved(name, direction[name], state, players)
        return players, opt_state, losses, direction, solves

    def _moved(self, name: str, direction: Any, state: PlayState, players: Any) -> tuple[Any, Any]:
        """(params, optimizer state) of one player after its move."""
        updates, after = self.rules[name].update(direction, state["opt_state"][name], players[name])
        return moved_by(players[name], updates), after

"""Playing a game in JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nestgrad import Direction, Game, PlayInfo, PlayState, Turns, check_play
from nestgrad_jax._calls import require_hashable
from nestgrad_jax._explain import explained
from nestgrad_jax._games.directions import PLAIN
from nestgrad_jax._games.field import as_players, settled
from nestgrad_jax._games.moves import Moves
from nestgrad_jax._games.outcome import finite, require_found
from nestgrad_jax._solvers._common import Solve
from nestgrad_jax._tree import check_arguments, is_traced, tree_norm
from nestgrad_jax.tuners._leaves import require_outer_optimizer


class Play:
    """All players move by an optimizer each, at once or in turn; nestgrad._games.play defines each step.

    optimizer: an optax transformation for all players, or {player: one}. direction: what they descend. turns:
    "simultaneous" or "alternating". throw: raise where a direction is not finite, or its solve failed; under a user's
    own jit nothing can be raised, and such players become NaN. `step` is pure and jitted, and may be the body of a
    lax.scan; `update` is its state alone, to be differentiated.
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
        self.moves = Moves(game, self.rules, direction, turns)
        self._jitted, self._moved = jax.jit(self._step), jax.jit(self.moves)

    def __repr__(self) -> str:
        return f"Play({', '.join(self.game.names)}, direction={self.direction!r}, turns={self.turns!r})"

    def init(self, players: Any) -> PlayState:
        """The state before the first step. players: {name: pytree of floating arrays}, copied."""
        weights = jax.tree.map(jnp.array, settled(as_players(self.game, players)))
        return self.moves.init(weights, jnp.zeros((), jnp.int32))

    def step(self, state: PlayState, batch: Any = None) -> tuple[PlayState, PlayInfo]:
        """Every player moves once; the state passed in is not changed."""
        check_arguments(batch=batch)
        with explained("Play.step", players=state["players"], batch=batch):
            after, info, fine, solves = self._jitted(state, batch)
        if self.throw and not is_traced((after, fine)):
            require_found("Play.step", self.game, self.direction, fine, solves)
        return after, info

    def update(self, state: PlayState, batch: Any = None) -> PlayState:
        """The state that step returns, differentiable in the state passed in as often as asked; nothing is raised."""
        check_arguments(batch=batch)
        with explained("Play.update", players=state["players"], batch=batch):
            return self._moved(state, batch)

    def _step(self, state: PlayState, batch: Any) -> tuple[PlayState, PlayInfo, Array, list[Solve]]:
        moved = self.moves.taken(state, batch)
        info = PlayInfo(losses=moved.losses, direction_norm=tree_norm(moved.direction))
        return moved.state, info, finite(self.game, moved.direction), moved.solves

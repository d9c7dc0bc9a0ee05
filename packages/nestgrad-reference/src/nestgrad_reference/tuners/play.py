"""Playing a game by dense float64 algebra."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import Direction, Game, PlayInfo, PlayState, Simultaneous, Turns, check_play, tree
from nestgrad_reference._tree import xp
from nestgrad_reference.games._directions import direct, require_finite
from nestgrad_reference.games._field import Field
from nestgrad_reference.tuners._common import norm, require_optimizer


class Play:
    """Move all players by an optimizer each, at once or in turn; nestgrad._games.play defines each step.

    optimizer: a functional rule such as nestgrad_reference.optim.complex_momentum(0.1, 0.9, π/8), or a rule by player.
    throw: raise NonFinite, naming the player, where its direction is not finite, and the errors of linear solves.
    """

    def __init__(
        self,
        game: Game,
        *,
        optimizer: Any,
        direction: Direction = Simultaneous(),  # noqa: B008  (frozen)
        turns: Turns = "simultaneous",
        throw: bool = True,
    ) -> None:
        self.optimizers = check_play(game, optimizer, direction, turns)
        for name, rule in self.optimizers.items():
            require_optimizer(f"Play.optimizer of {name!r}", rule)
        self.game, self.direction, self.throw = game, direction, throw
        self.turns: Turns = turns

    def init(self, players: Any) -> PlayState:
        """The state before the first step."""
        held = Field(self.game, players, None).players
        opt_state = {name: self.optimizers[name].init(held[name]) for name in held}
        return {"players": held, "opt_state": opt_state, "step": 0}

    def step(self, state: PlayState, batch: Any = None) -> tuple[PlayState, PlayInfo]:
        """One move of each player; the state passed in is not changed."""
        after, losses, parts = self._moved(state, batch, look=self.throw)
        return after, PlayInfo(losses=losses, direction_norm=np.asarray(norm(parts)))

    def update(self, state: PlayState, batch: Any = None) -> PlayState:
        """The state that step would give, differentiable in the float leaves of players and opt_state.

        Nothing is raised where numbers are not finite, or where a linear solve does not converge. Of a solve it is
        the exact solution that is differentiated.
        """
        return self._moved(state, batch, look=False)[0]

    def __repr__(self) -> str:
        return f"Play(direction={self.direction}, turns={self.turns!r})"

    def _moved(self, state: PlayState, batch: Any, *, look: bool) -> tuple[PlayState, dict[str, Any], dict[str, Any]]:
        """(the state after one move of each, losses, parts of the direction); look: raise what a throw raises."""
        count = state["step"] + 1 if look else None
        players, opt_state = dict(state["players"]), dict(state["opt_state"])
        losses: dict[str, Any] = {}
        parts: dict[str, Any] = {}
        if self.turns == "simultaneous":
            field = Field(self.game, players, batch)
            found = direct(field, self.direction, throw=look)
            losses, parts = found.losses, _parts(field, found.direction, count, self.game.names)
            for name in self.game.names:
                self._move(name, parts[name], players, opt_state)
        else:
            for name in self.game.names:
                loss, part = self._in_turn(name, players, batch, count)
                losses[name], parts[name] = loss, part
                self._move(name, part, players, opt_state)
        return {"players": players, "opt_state": opt_state, "step": state["step"] + 1}, losses, parts

    def _in_turn(self, name: str, players: Any, batch: Any, count: int | None) -> tuple[Any, Any]:
        """One player's loss and part of the direction, as all players stand now."""
        field = Field(self.game, players, batch)
        block = field.blocks[name]
        if isinstance(self.direction, Simultaneous):
            loss, part = field.own_loss_and_gradient(name, field.vector)
        else:
            found = direct(field, self.direction, throw=count is not None)
            loss, part = found.losses[name], found.direction[block]
        vector = xp.concatenate([np.zeros(block.start), part, np.zeros(field.size - block.stop)])
        return loss, _parts(field, vector, count, (name,))[name]

    def _move(self, name: str, part: Any, players: Any, opt_state: Any) -> None:
        """One optimizer step of one player, written into `players` and `opt_state`."""
        updates, opt_state[name] = self.optimizers[name].update(part, opt_state[name], players[name])
        players[name] = tree.map(xp.add, players[name], updates)


def _parts(field: Field, vector: Any, count: int | None, names: tuple[str, ...]) -> dict[str, Any]:
    """The vector by player; NonFinite where an entry is not finite, unless there is no count to name the step by."""
    if count is not None:
        require_finite(field, vector, "direction", f"step {count}")
    parts = field.as_players(vector)
    return {name: parts[name] for name in names}

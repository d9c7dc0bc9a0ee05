"""Playing a game: all players move by an optimizer each, at once or in turn.

A step of simultaneous play takes every player's direction at ω and one optimizer step on each. In turn, players move in
the game's order, each on its direction at the params that the ones before it have just reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from nestgrad._errors import InvalidInput
from nestgrad._games.directions import Direction
from nestgrad._games.game import Game, check_turns


class PlayState(TypedDict):
    """A plain tree: params and optimizer state of each player by name, and the number of steps taken."""

    players: Any
    opt_state: Any
    step: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class GameDirection:
    """What players descend at a point.

    losses: each player's, by name. gradient: the joint gradient ĝ, like players; direction likewise. products: of the
    game Jacobian or its transpose with a vector that the direction took.
    """

    losses: Any
    gradient: Any
    direction: Any
    products: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayInfo:
    """What one step saw: each player's loss when its direction was taken, and the norm of the joint direction."""

    losses: Any
    direction_norm: Any


def check_play(game: Any, optimizer: Any, direction: Any, turns: Any) -> dict[str, Any]:
    """Each player's optimizer by name, once it is checked that the game can be played; else InvalidInput."""
    if not isinstance(game, Game):
        raise InvalidInput(f"Play.game: got {game!r}, limit: a Game. Remedy: pass Game({{'player': loss, ...}}).")
    if not isinstance(direction, Direction):
        raise InvalidInput(
            f"Play.direction: got {direction!r}, limit: one of nestgrad.Direction. Remedy: pass Simultaneous()."
        )
    check_turns(turns)
    if not isinstance(optimizer, Mapping):
        return dict.fromkeys(game.names, optimizer)
    given: dict[Any, Any] = dict(optimizer)  # pyright: ignore[reportUnknownArgumentType]
    if set(given) != set(game.names):
        raise InvalidInput(
            f"Play.optimizer: got one for {', '.join(map(str, given))}, limit: one for each of "
            f"{', '.join(game.names)}. Remedy: pass one for all, or a mapping of these names."
        )
    return {name: given[name] for name in game.names}

"""The joint gradient of a game's players, and the products that directions are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array

from nestgrad import Game, InvalidInput, check_players
from nestgrad_jax._slopes import scalar_loss
from nestgrad_jax._tree import as_params, check_arguments, check_matching


def as_players(game: Game, players: Any, **others: Any) -> dict[str, Any]:
    """The players in the order of their turns, checked for what jit itself would hide."""
    check_players(game, players)
    ordered = {name: players[name] for name in game.names}
    for name, params in ordered.items():
        if not jax.tree.leaves(params):
            raise InvalidInput(f"players[{name!r}]: 0 leaves, limit: at least 1. Remedy: leave this player out.")
    check_arguments(players=ordered, **others)
    return ordered


def settled(players: Any, **others: Any) -> Any:
    """The players with Python floats made arrays; raises for leaves and dtypes that are wrong."""
    weights = as_params(players, "players")
    check_matching(weights, title="players", **others)
    return weights


@dataclass(frozen=True, slots=True)
class Field:
    """ĝ of a game on one batch; players are a dict of trees, and so is all that is shaped like them."""

    game: Game
    batch: Any

    def loss(self, name: str) -> Callable[[Any], Array]:
        """A player's loss of all players, refused by name unless it is a real scalar."""
        own = self.game.losses[name]
        checked = scalar_loss(lambda players, _, batch: own(players, batch), f"loss of player {name!r}")
        return lambda players: checked(players, None, self.batch)

    def slope(self, name: str, players: Any) -> tuple[Array, Any]:
        """(L_i, ∂L_i/∂ω_i) of one player."""
        loss = self.loss(name)
        return jax.value_and_grad(lambda own: loss({**players, name: own}))(players[name])

    def joint(self, players: Any) -> tuple[Any, dict[str, Array]]:
        """(ĝ, each player's loss)."""
        return self._gathered(lambda name: self.slope(name, players))

    def linearized(self, players: Any) -> tuple[Any, Callable[[Any], Any], dict[str, Array]]:
        """(ĝ, t -> Ĝ t, losses)."""
        return jax.linearize(self.joint, players, has_aux=True)

    def pulled_back(self, players: Any) -> tuple[Any, Callable[[Any], Any], dict[str, Array]]:
        """(ĝ, c -> Ĝᵀ c, losses)."""
        gradient, pull, losses = jax.vjp(self.joint, players, has_aux=True)
        return gradient, lambda cotangents: pull(cotangents)[0], losses

    def across(self, players: Any) -> tuple[Any, Callable[[Any], Any], dict[str, Array]]:
        """(ĝ, t -> H_o t, losses): each player's gradient as the others alone move."""

        def apart(others: Any) -> tuple[Any, dict[str, Array]]:
            return self._gathered(lambda name: self.slope(name, {**others, name: players[name]}))

        return jax.linearize(apart, players, has_aux=True)

    def shaping(self, players: Any) -> Any:
        """χ: how each player's params change the others' steps, times what these do to its own loss."""

        def part(name: str) -> Any:
            harm = jax.grad(self.loss(name))(players)
            others = [other for other in self.game.names if other != name]
            _, pull = jax.vjp(
                lambda own: {other: self.slope(other, {**players, name: own})[1] for other in others}, players[name]
            )
            return pull({other: harm[other] for other in others})[0]

        return {name: part(name) for name in self.game.names}

    def _gathered(self, slope: Callable[[str], tuple[Array, Any]]) -> tuple[Any, dict[str, Array]]:
        found = {name: slope(name) for name in self.game.names}
        return {name: each[1] for name, each in found.items()}, {name: each[0] for name, each in found.items()}

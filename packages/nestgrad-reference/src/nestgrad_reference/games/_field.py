"""A game as functions of one vector: the losses, the joint gradient ĝ and the game Jacobian Ĝ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd
import numpy as np

from nestgrad import Game, InvalidInput, check_players, tree
from nestgrad_reference._checks import scalar_loss
from nestgrad_reference._derivatives import independence_is_no_news
from nestgrad_reference._tree import as_float64, check_matching, plain, shaped, unboxed, xp


class Field:
    """ω is one vector: players in the game's order, leaves by sorted path, entries in C order.

    vector: ω at the players given, autograd's box of it where they are boxes; blocks: where each player's entries are.
    players: the same without boxes.
    """

    def __init__(self, game: Game, players: Any, batch: Any) -> None:
        check_players(game, players)
        held = tree.map(unboxed, players)
        check_matching(held, title="players", batch=batch)
        self.game, self.players = game, {name: _as_player(name, held[name]) for name in held}
        entries = tree.map(lambda given, known: known if given is unboxed(given) else given, players, self.players)
        self.blocks: dict[str, slice] = {}
        self._places: dict[str, list[slice]] = {}
        parts: list[Any] = []
        end = 0
        for name in game.names:
            leaves, begin, places = tree.named_leaves(entries[name]), end, dict[str, slice]()
            for path in sorted(leaves):
                places[path] = slice(end, end + leaves[path].size)
                end += leaves[path].size
                parts.append(xp.reshape(leaves[path], (-1,)))
            self.blocks[name] = slice(begin, end)
            self._places[name] = [places[path] for path in leaves]
        self.vector: Any = xp.concatenate(parts)
        self._losses = [_of_vector(self, name, batch) for name in game.names]

    @property
    def size(self) -> int:
        """How many entries all players have."""
        return self.vector.size

    def as_players(self, w: Any) -> Any:
        """A vector (or autograd box) shaped like the players."""
        return {name: self._as_player(name, w) for name in self.players}

    def as_vector(self, players: Any, title: str) -> Any:
        """The inverse; InvalidInput with its title unless the tree has the players' form."""
        leaves = shaped(self.players, players, title)
        given = tree.unflatten(self.players, [np.asarray(leaf, np.float64) for leaf in leaves])
        w = np.zeros(self.size)
        for name, places in self._places.items():
            for place, leaf in zip(places, tree.leaves(given[name]), strict=True):
                w[place] = leaf.reshape(-1)
        return w

    def losses(self, w: Any) -> dict[str, np.ndarray]:
        """Each player's, at a vector that is no box."""
        return {name: np.asarray(float(loss(w))) for name, loss in self._named()}

    def slopes(self, w: Any) -> dict[str, Any]:
        """Each player's loss in all of ω (n), differentiably."""
        return {name: autograd.grad(loss)(w) for name, loss in self._named()}  # pyright: ignore[reportCallIssue]

    def own_loss_and_gradient(self, name: str, w: Any) -> tuple[np.ndarray, Any]:
        """One player's loss, as a number, and its derivative in the player's own entries, differentiably."""
        loss = self._losses[self.game.names.index(name)]
        with independence_is_no_news():
            value, slope = autograd.value_and_grad(loss)(w)  # pyright: ignore[reportCallIssue]
        return plain(value), slope[self.blocks[name]]

    def joint(self, slopes: dict[str, Any]) -> Any:
        """ĝ, each player's own part of its slopes."""
        return xp.concatenate([slopes[name][block] for name, block in self.blocks.items()])

    def jacobian(self, w: Any) -> Any:
        """Ĝ (n, n), each row by one reverse pass through a gradient; differentiable as often as the losses are."""
        with independence_is_no_news():
            rows = [self._rows(name, w) for name in self.game.names]
        return xp.concatenate(rows)

    def shaped_gradient(self, name: str, w: Any, look_ahead: float) -> Any:
        """∂/∂ω_i of L_i(ω_i, ω_j - look_ahead ∂L_j/∂ω_j), also through the others' step."""
        loss = self._losses[self.game.names.index(name)]

        def after_their_step(x: Any) -> Any:
            slopes = self.slopes(x)
            parts = [
                x[block] if other == name else x[block] - look_ahead * slopes[other][block]
                for other, block in self.blocks.items()
            ]
            return loss(xp.concatenate(parts))

        with independence_is_no_news():
            return autograd.grad(after_their_step)(w)[self.blocks[name]]  # pyright: ignore[reportCallIssue]

    def _named(self) -> list[tuple[str, Callable[[Any], Any]]]:
        return list(zip(self.game.names, self._losses, strict=True))

    def _rows(self, name: str, w: Any) -> Any:
        loss, block = self._losses[self.game.names.index(name)], self.blocks[name]
        rows = autograd.jacobian(lambda x: autograd.grad(loss)(x)[block])(w)  # pyright: ignore[reportCallIssue]
        return xp.reshape(rows, (block.stop - block.start, self.size))

    def _as_player(self, name: str, w: Any) -> Any:
        player = self.players[name]
        pairs = zip(self._places[name], tree.leaves(player), strict=True)
        return tree.unflatten(player, [xp.reshape(w[place], leaf.shape) for place, leaf in pairs])


def _as_player(name: str, values: Any) -> Any:
    """One player's params as float64 arrays; InvalidInput for none, or for leaves that are not real floating-point."""
    if not tree.leaves(values):
        raise InvalidInput(f"players[{name!r}]: 0 leaves, limit: at least 1. Remedy: pass arrays.")
    return as_float64(values, f"players[{name!r}]")


def _of_vector(field: Field, name: str, batch: Any) -> Callable[[Any], Any]:
    given = field.game.losses[name]
    loss = scalar_loss(lambda players, _, batch: given(players, batch), f"loss of player {name!r}")
    return lambda w: loss(field.as_players(w), None, batch)

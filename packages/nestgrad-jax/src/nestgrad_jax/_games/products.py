"""Directions and products of a game as calls of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from nestgrad import Direction, Game, GameDirection, InvalidInput
from nestgrad_jax._calls import require_hashable
from nestgrad_jax._explain import explained
from nestgrad_jax._games.directions import DIRECTIONS, PLAIN, Found
from nestgrad_jax._games.field import Field, as_players, settled
from nestgrad_jax._games.outcome import finite, require_found
from nestgrad_jax._tree import check_arguments, is_traced, require_like


def game_direction(
    game: Game, players: Any, batch: Any = None, *, method: Direction = PLAIN, throw: bool = True
) -> GameDirection:
    """What the players descend at this point; nestgrad.Direction's kinds define it.

    players: {name: pytree of floating arrays}. Raises NonFinite for a direction that is not finite, and NotConverged or
    SingularJacobian where CompetitiveGradient's solve fails; with throw=False, and under a user's own jit, where none
    can be raised, such a direction is NaN.
    """
    ordered = _as_call("game_direction", game, players, batch=batch)
    require_hashable("game_direction", method=method)
    with explained("game_direction", players=ordered, batch=batch):
        found, fine = _compiled_direction(game, method, ordered, batch)
    result = GameDirection(
        losses=found.losses, gradient=found.gradient, direction=found.direction, products=found.products
    )
    if is_traced((ordered, batch, found)):
        return result
    if throw:
        require_found("game_direction", game, method, fine, [] if found.solve is None else [found.solve])
    return replace(result, products=int(found.products))


def game_jvp(game: Game, players: Any, tangents: Any, batch: Any = None) -> Any:
    """Ĝ t, a tree like players; tangents likewise."""
    return _product("game_jvp", _compiled_jvp, game, players, batch, tangents=tangents)


def game_vjp(game: Game, players: Any, cotangents: Any, batch: Any = None) -> Any:
    """Ĝᵀ c, a tree like players; cotangents likewise."""
    return _product("game_vjp", _compiled_vjp, game, players, batch, cotangents=cotangents)


def game_jacobian(game: Game, players: Any, batch: Any = None, *, max_params: int = 2000) -> Array:
    """Ĝ, (n, n): rows and columns are players in the order of turns, their leaves by sorted path, in C order.

    InvalidInput for more than max_params entries.
    """
    ordered = _as_call("game_jacobian", game, players, batch=batch)
    count = sum(jnp.size(leaf) for leaf in jax.tree.leaves(ordered))
    if count > max_params:
        raise InvalidInput(
            f"game_jacobian: {count} entries in players, limit max_params={max_params}, as the matrix has their "
            "square. Remedy: game_jvp or game_vjp, which give products with it."
        )
    with explained("game_jacobian", players=ordered, batch=batch):
        return _compiled_jacobian(game, ordered, batch)


def _as_call(caller: str, game: Any, players: Any, **others: Any) -> dict[str, Any]:
    if not isinstance(game, Game):
        raise InvalidInput(
            f"{caller}: game is {type(game).__name__}, limit: a Game. Remedy: pass Game({{'player': loss, ...}})."
        )
    require_hashable(caller, game=game)
    return as_players(game, players, **others)


def _product(caller: str, compiled: Any, game: Game, players: Any, batch: Any, **along: Any) -> Any:
    ordered = _as_call(caller, game, players, batch=batch)
    ((title, vector),) = along.items()
    check_arguments(**{title: vector})
    wanted = require_like(ordered, dict(vector) if isinstance(vector, Mapping) else vector, title, "players")
    with explained(caller, players=ordered, batch=batch):
        return compiled(game, ordered, wanted, batch)


@partial(jax.jit, static_argnames=("game", "method"))
def _compiled_direction(game: Game, method: Any, players: Any, batch: Any) -> tuple[Found, Array]:
    found = DIRECTIONS(method, Field(game, batch), settled(players, batch=batch))
    return found, finite(game, found.direction)


@partial(jax.jit, static_argnames="game")
def _compiled_jvp(game: Game, players: Any, tangents: Any, batch: Any) -> Any:
    weights = settled(players, batch=batch)
    field = Field(game, batch)
    return jax.jvp(field.joint, (weights,), (_in_dtypes(weights, tangents),), has_aux=True)[1]


@partial(jax.jit, static_argnames="game")
def _compiled_vjp(game: Game, players: Any, cotangents: Any, batch: Any) -> Any:
    weights = settled(players, batch=batch)
    _, pull, _ = Field(game, batch).pulled_back(weights)
    return pull(_in_dtypes(weights, cotangents))


@partial(jax.jit, static_argnames="game")
def _compiled_jacobian(game: Game, players: Any, batch: Any) -> Array:
    weights = settled(players, batch=batch)
    _, push, _ = Field(game, batch).linearized(weights)
    vector, restore = ravel_pytree(weights)
    columns = jax.vmap(lambda t: ravel_pytree(push(restore(t)))[0], out_axes=1)(
        jnp.eye(vector.size, dtype=vector.dtype)
    )
    order = _order(game, weights)
    return columns[order][:, order]


def _order(game: Game, players: Any) -> np.ndarray:
    """Where, among the entries in JAX's order, are those in the order of turns and sorted paths."""
    leaves, structure = jax.tree.flatten(players)
    ends = np.cumsum([leaf.size for leaf in leaves])
    places = structure.unflatten(
        [np.arange(end - leaf.size, end) for end, leaf in zip(ends.tolist(), leaves, strict=True)]
    )
    found: list[np.ndarray] = []
    for name in game.names:
        paths = jax.tree_util.tree_flatten_with_path(places[name])[0]
        named = {jax.tree_util.keystr(keys, simple=True, separator="/"): part for keys, part in paths}
        found += [named[path] for path in sorted(named)]
    return np.concatenate(found)


def _in_dtypes(players: Any, tree: Any) -> Any:
    return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), tree, players)

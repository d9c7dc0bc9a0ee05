"""The entry points for a game at one point: a direction, products with the game Jacobian, the Jacobian itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nestgrad import Direction, Game, GameDirection, InvalidInput, Simultaneous, UnsupportedSpec, tree
from nestgrad_torch._games.directions import as_result, found_at
from nestgrad_torch._games.point import Linear, Point
from nestgrad_torch._rules._call import vector_like
from nestgrad_torch._second_order import second_order
from nestgrad_torch._tree import untouched


@torch.inference_mode(mode=False)
def game_direction(game: Game, players: Any, batch: Any = None, *, method: Direction = Simultaneous()) -> GameDirection:  # noqa: B008
    """What players descend at a point: losses, the joint gradient and the method's direction, trees like players.

    players: {name: tree of floating tensors}; neither they nor the random number generators are changed. Raises
    NonFinite, which names the player, and the error of a solve that failed.
    """
    if not isinstance(method, Direction):
        raise UnsupportedSpec(
            f"game_direction: method {method!r}, limit: one of nestgrad.Direction. Remedy: pass Simultaneous()."
        )
    point = Point(game, players, batch)
    with untouched(point.whole):
        return as_result(point, found_at(method, point, throw=True))


@torch.inference_mode(mode=False)
def game_jvp(game: Game, players: Any, tangents: Any, batch: Any = None) -> Any:
    """Ĝ tangents, Ĝ being the derivative of the joint gradient; both trees like players."""
    return _product(game, players, tangents, "tangents", batch, Linear.push)


@torch.inference_mode(mode=False)
def game_vjp(game: Game, players: Any, cotangents: Any, batch: Any = None) -> Any:
    """Ĝᵀ cotangents, Ĝ being the derivative of the joint gradient; both trees like players."""
    return _product(game, players, cotangents, "cotangents", batch, Linear.pull)


@torch.inference_mode(mode=False)
def game_jacobian(game: Game, players: Any, batch: Any = None, *, max_params: int = 2000) -> Tensor:
    """Ĝ, (n, n): players in the game's order, the leaves of each by sorted path, entries in C order."""
    point = Point(game, players, batch)
    count = sum(leaf.numel() for leaf in point.whole.leaves)
    if count > max_params:
        raise InvalidInput(
            f"game_jacobian: {count} params, limit max_params={max_params}, as it takes their square in memory. "
            "Remedy: game_jvp, a product with it, or raise max_params."
        )
    with untouched(point.whole), second_order(None):
        linear, first = Linear(point, own=True), point.whole.leaves[0]
        units = torch.eye(count, dtype=first.dtype, device=first.device)
        jacobian = torch.stack([linear.pull(unit) for unit in units])
    order = _sorted_places(point)
    return jacobian[order][:, order]


def _product(
    game: Game, players: Any, along: Any, title: str, batch: Any, product: Callable[[Linear, Tensor], Tensor]
) -> Any:
    point = Point(game, players, batch)
    vector = vector_like(point.whole.tree, along, title)
    with untouched(point.whole), second_order(None):
        return point.by_name(product(Linear(point, own=product is Linear.pull), vector))


def _sorted_places(point: Point) -> Tensor:
    """Where the entries of the sorted leaves are in a vector."""
    count = sum(leaf.numel() for leaf in point.whole.leaves)
    places = point.by_name(torch.arange(count, device=point.whole.leaves[0].device))
    rows: list[Tensor] = []
    for name in point.names:
        named = tree.named_leaves(places[name])
        rows += [named[path].reshape(-1) for path in sorted(named)]
    return torch.cat(rows)

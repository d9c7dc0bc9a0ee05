"""Products with the game Jacobian, and the Jacobian itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import Game, InvalidInput
from nestgrad_reference.games._field import Field


def game_jvp(game: Game, players: Any, tangents: Any, batch: Any = None) -> Any:
    """Ĝ t, a tree like players: how all players' gradients change where the players move along t."""
    field = Field(game, players, batch)
    return field.as_players(field.jacobian(field.vector) @ field.as_vector(tangents, "tangents"))


def game_vjp(game: Game, players: Any, cotangents: Any, batch: Any = None) -> Any:
    """Ĝᵀ c, a tree like players: the derivative of ⟨c, ĝ⟩."""
    field = Field(game, players, batch)
    return field.as_players(field.jacobian(field.vector).T @ field.as_vector(cotangents, "cotangents"))


def game_jacobian(game: Game, players: Any, batch: Any = None, *, max_params: int = 2000) -> np.ndarray:
    """Ĝ, dense (n, n): rows and columns by player in the game's order, then by sorted path, then in C order."""
    field = Field(game, players, batch)
    if field.size > max_params:
        raise InvalidInput(
            f"game_jacobian: players of {field.size} entries, limit max_params={max_params}. "
            "Remedy: game_jvp and game_vjp, which give products with it, or a larger max_params."
        )
    return field.jacobian(field.vector)

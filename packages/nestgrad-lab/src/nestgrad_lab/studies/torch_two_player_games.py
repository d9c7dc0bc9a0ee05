"""Games of two players with sigmoid strategies, in torch: the iterated prisoner's dilemma and matching pennies.

A player is a tensor of logits (..., logits), a probability of the first action, cooperation, being the logit's sigmoid.
Losses are sums over leading axes, along which games are independent of each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import nestgrad_torch as ng

PLAYERS = ("one", "two")
FROZEN = -3.0
"""The small dilemma's logit of cooperation after the other's defection, which nobody can change."""
REWARDS = ((-1.0, -3.0), (0.0, -2.0))
"""Of one player, by (its own, the other's) action, cooperation first."""


def dilemma(one: Tensor, two: Tensor, discount: float = 0.96) -> tuple[Tensor, Tensor]:
    """Each player's loss, (...), of logits (..., 5): of cooperation at first, and after CC, CD, DC, DD as it sees them.

    -(1 - γ) p₀ᵀ (I - γ P)⁻¹ r, the discounted mean of what it gives away a round.
    """
    first, second = torch.sigmoid(one), torch.sigmoid(two)
    # What one calls CD is DC to the other.
    return _discounted(first[..., 0], second[..., 0], first[..., 1:], second[..., [1, 3, 2, 4]], discount)


def small_dilemma(one: Tensor, two: Tensor, discount: float = 0.9) -> tuple[Tensor, Tensor]:
    """Each player's loss, (...), of one logit (..., 1) each: cooperation at first and after the other's cooperation."""
    first, second = torch.sigmoid(one[..., 0]), torch.sigmoid(two[..., 0])
    frozen = torch.sigmoid(torch.full_like(first, FROZEN))
    after_one = torch.stack([first, frozen, first, frozen], -1)
    after_two = torch.stack([second, second, frozen, frozen], -1)
    return _discounted(first, second, after_one, after_two, discount)


def _discounted(
    first: Tensor, second: Tensor, after_one: Tensor, after_two: Tensor, discount: float
) -> tuple[Tensor, Tensor]:
    """Losses from cooperation at first (...) and after CC, CD, DC, DD of player one's view (..., 4)."""
    start, then = _both(first, second), _both(after_one, after_two)
    eye = torch.eye(4, dtype=start.dtype, device=start.device)
    visits = torch.linalg.solve((eye - discount * then).mT, start)
    mine = torch.tensor([value for row in REWARDS for value in row], dtype=start.dtype, device=start.device)
    scale = -(1.0 - discount)
    return scale * (visits @ mine), scale * (visits @ mine[[0, 2, 1, 3]])


def _both(first: Tensor, second: Tensor) -> Tensor:
    """Probabilities of CC, CD, DC, DD on a new last axis."""
    return torch.stack(
        [first * second, first * (1.0 - second), (1.0 - first) * second, (1.0 - first) * (1.0 - second)], -1
    )


def pennies(one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
    """Matching pennies, of one logit (..., 1) each: xᵀ [[1, -1], [-1, 1]] y and its negative."""
    first, second = torch.sigmoid(one[..., 0]), torch.sigmoid(two[..., 0])
    value = (2.0 * first - 1.0) * (2.0 * second - 1.0)
    return value, -value


def mixing(one: Tensor, two: Tensor, share: float = 0.25) -> tuple[Tensor, Tensor]:
    """This share of matching pennies, the rest of the small dilemma."""
    parts = zip(pennies(one, two), small_dilemma(one, two), strict=True)
    first, second = (share * a + (1.0 - share) * b for a, b in parts)
    return first, second


LOSSES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "small dilemma": small_dilemma,
    "dilemma": dilemma,
    "matching pennies": pennies,
    "mixing": mixing,
}
LOGITS = {"dilemma": 5}
"""Of a player; one where the game is not named."""


def game(name: str) -> ng.Game:
    """The game of this name in LOSSES."""
    losses = LOSSES[name]

    def loss(which: int) -> Callable[[Any, Any], Tensor]:
        return lambda p, batch: losses(p[PLAYERS[0]], p[PLAYERS[1]])[which].sum()

    return ng.Game({player: loss(which) for which, player in enumerate(PLAYERS)})


def both(logits: Tensor) -> dict[str, Tensor]:
    """Players from (..., 2, logits)."""
    return {player: logits[..., which, :].contiguous() for which, player in enumerate(PLAYERS)}


def joined(players: Any) -> Tensor:
    """(..., 2, logits) from players."""
    return torch.stack([players[player] for player in PLAYERS], -2)

"""Games whose gradients, rates or losses are known in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import Game
from nestgrad_conformance.draws import Draw

PLAYERS = ("upper", "lower")
"""Two of them, the first to move being the last by name."""


@dataclass(frozen=True)
class CurvedFirst:
    """x·My + 0.1 Σ x² + 0.2 Σ tanh(x) y²."""

    xp: Any

    def __call__(self, players: Any, batch: Any) -> Any:
        x, y = players["x"]["a"], players["y"]["b"]
        return self.xp.sum(x * (batch @ y)) + self.xp.sum(0.1 * x**2 + 0.2 * self.xp.tanh(x) * y**2)


@dataclass(frozen=True)
class CurvedSecond:
    """-x·My + 0.3 Σ y² + 0.1 Σ x² y."""

    xp: Any

    def __call__(self, players: Any, batch: Any) -> Any:
        x, y = players["x"]["a"], players["y"]["b"]
        return self.xp.sum(0.3 * y**2 + 0.1 * x**2 * y) - self.xp.sum(x * (batch @ y))


def curved_game(harness: Any) -> Game:
    """Of players {"x": {"a"}, "y": {"b"}}; the batch is M."""
    return Game({"x": CurvedFirst(harness.xp), "y": CurvedSecond(harness.xp)})


@dataclass(frozen=True)
class LinearLoss:
    """½ w·Aw + w·Bv, w being the player's and v the other's params; the batch has the player's (A, B), A symmetric."""

    xp: Any
    mine: str
    other: str

    def __call__(self, players: Any, batch: Any) -> Any:
        w, v = players[self.mine]["w"], players[self.other]["w"]
        own, across = batch[self.mine]
        return self.xp.sum(0.5 * w * (own @ w) + w * (across @ v))


def linear_game(harness: Any) -> Game:
    """ĝ = Ĝω, Ĝ = [[A, B], [C, D]] of the batch {"upper": (A, B), "lower": (D, C)}; each loss affine in the other."""
    upper, lower = PLAYERS
    return Game({upper: LinearLoss(harness.xp, upper, lower), lower: LinearLoss(harness.xp, lower, upper)})


def linear_batch(draw: Draw, n: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Drawn blocks of n rows, those of a player's own symmetric."""
    return {name: (draw.symmetric(draw.normal(n)), draw.normal(n, n)) for name in PLAYERS}


def linear_jacobian(batch: Any) -> np.ndarray:
    """Ĝ of the batch."""
    (a, b), (d, c) = (batch[name] for name in PLAYERS)
    return np.block([[a, b], [c, d]])


@dataclass(frozen=True)
class TandemLoss:
    """(x + y)² - 2 w, entry by entry, w being the player's own of the two."""

    xp: Any
    mine: str

    def __call__(self, players: Any, batch: Any) -> Any:
        both = players["upper"]["w"] + players["lower"]["w"]
        return self.xp.sum(both**2 - 2.0 * players[self.mine]["w"])


def tandem_game(harness: Any) -> Game:
    """All gradients are zero where x + y = 1."""
    return Game({name: TandemLoss(harness.xp, name) for name in PLAYERS})


@dataclass(frozen=True)
class AloneLoss:
    """Σ tanh(s w) + ½ w², of the player alone; s is the batch's."""

    xp: Any
    mine: str

    def __call__(self, players: Any, batch: Any) -> Any:
        w = players[self.mine]["w"]
        return self.xp.sum(self.xp.tanh(batch * w) + 0.5 * w**2)


def lonely_game(harness: Any) -> Game:
    """Players of whom none is in another's loss."""
    return Game({name: AloneLoss(harness.xp, name) for name in PLAYERS})


@dataclass(frozen=True)
class DiracLoss:
    """sign Σ f(ψθ), f(t) = -ln(1 + exp(-t)): a GAN of one point for each entry; θ is "upper", ψ is "lower"."""

    xp: Any
    sign: float

    def __call__(self, players: Any, batch: Any) -> Any:
        product = players["upper"]["w"] * players["lower"]["w"]
        return -self.sign * self.xp.sum(self.xp.log(1.0 + self.xp.exp(-product)))


def dirac_game(harness: Any) -> Game:
    """At (0, 0) the game Jacobian is a rotation by f'(0) = ½, and each entry's game a game of its own."""
    return Game({"upper": DiracLoss(harness.xp, 1.0), "lower": DiracLoss(harness.xp, -1.0)})


@dataclass(frozen=True)
class SaddleLoss:
    """½ w·Hw of the only player; the batch is H."""

    xp: Any

    def __call__(self, players: Any, batch: Any) -> Any:
        w = players["only"]["w"]
        return self.xp.sum(0.5 * w * (batch @ w))


@dataclass(frozen=True)
class WellsLoss:
    """Σ ¼ w⁴ - ½ w² of the only player: a well at -1 and another at 1, on each axis."""

    xp: Any

    def __call__(self, players: Any, batch: Any) -> Any:
        w = players["only"]["w"]
        return self.xp.sum(0.25 * w**4 - 0.5 * w**2)


@dataclass(frozen=True)
class DilemmaLoss:
    """-(1 - γ) p₀ᵀ(I - γP)⁻¹ r of an iterated prisoner's dilemma, with the states CC, CD, DC, DD.

    A player cooperates, at first and after each state, with the chances σ(M w + c), (M, c) the batch's of the player.
    The inverse is the first 2 ** doublings terms of its series.
    """

    xp: Any
    mine: str
    doublings: int

    def __call__(self, players: Any, batch: Any) -> Any:
        p, q = (self._chances(players[name]["w"], batch[name])[:, None] for name in PLAYERS)
        cc, cd, dc, dd = (batch["states"][k] for k in range(4))
        moves = p * q * cc + p * (1.0 - q) * cd + (1.0 - p) * q * dc + (1.0 - p) * (1.0 - q) * dd
        visits, power = moves[0], batch["discount"] * moves[1:]
        for _ in range(self.doublings):
            visits, power = visits + visits @ power, power @ power
        return -(1.0 - batch["discount"]) * self.xp.sum(visits * batch["rewards"][self.mine])

    def _chances(self, logits: Any, law: Any) -> Any:
        return 0.5 * (1.0 + self.xp.tanh(0.5 * (law[0] @ logits + law[1])))


def dilemma_game(harness: Any, doublings: int = 10) -> Game:
    """Each player's mean discounted years in prison; with fewer doublings those of the first few rounds."""
    return Game({name: DilemmaLoss(harness.xp, name, doublings) for name in PLAYERS})


def dilemma_batch(*, small: bool) -> dict[str, Any]:
    """Of 5 logits a player and γ = 0.96; small: of one, γ = 0.9, the logit after the other's defection being -3."""
    first, seen = np.eye(5), np.eye(5)[[0, 1, 3, 2, 4]]
    laws = (first, np.zeros(5)), (seen, np.zeros(5))
    if small:
        trusting = first @ np.array([1.0, 1.0, 0.0, 1.0, 0.0]), seen @ np.array([1.0, 1.0, 0.0, 1.0, 0.0])
        laws = tuple((free[:, None], -3.0 * (1.0 - free)) for free in trusting)
    return {
        **dict(zip(PLAYERS, laws, strict=True)),
        "states": np.eye(4),
        "discount": np.asarray(0.9 if small else 0.96),
        "rewards": dict(zip(PLAYERS, np.array([[-1.0, -3.0, 0.0, -2.0], [-1.0, 0.0, -3.0, -2.0]]), strict=True)),
    }

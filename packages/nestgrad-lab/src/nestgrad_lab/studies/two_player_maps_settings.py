"""Settings of the study two-player-maps."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run; the tuples from games to ascent_rates go together.

    look_aheads: of LOLA, 0 for plain gradients. grid: points across either probability. exponent_steps, refinements: of
    the exponents. starts: random ones of the search, of deviation 1. distance: how far branches begin from their point.
    toy_*: the single loss: its curvatures at the saddle are minus these, its ridges are ridden in these steps.
    """

    games: tuple[str, ...] = ("small dilemma", "matching pennies", "mixing")
    step_sizes: tuple[float, ...] = (5.0, 1.0, 1.0)
    look_aheads: tuple[float, ...] = (0.0, 4.0, 4.0)
    ascent_steps: tuple[int, ...] = (25, 15, 15)
    ascent_rates: tuple[float, ...] = (0.3, 0.3, 0.3)
    grid: int = 13
    exponent_steps: int = 10
    refinements: int = 2
    starts: int = 2
    distance: float = 1.0
    directions: int = 2
    steps: int = 600
    toy_curvatures: tuple[float, ...] = (1.0, 0.5)
    toy_step: float = 0.1
    toy_ridge: float = 0.05
    toy_starts: int = 8


SMALL = Settings()
FULL = dataclasses.replace(SMALL, grid=31, starts=6, steps=3000, ascent_steps=(50, 30, 30), toy_starts=100)

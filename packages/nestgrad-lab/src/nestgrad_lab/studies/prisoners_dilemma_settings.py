"""Settings of the study prisoners-dilemma."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run; pairs are of the small dilemma and the full one.

    step_size, steps: of every optimisation. starts: from normal logits, of each deviation in spreads. look_ahead: of
    LOLA. searches: starts of the search, of the deviation search_spread. ascent_steps, ascent_rates: of Adam up the
    largest exponent. distances: how far branches begin from their point, in logits. directions: leading ones, each to
    both sides. exponent_steps, refinements: of the exponents. controls: draws of random directions from each start.
    shaped_*: the same of the search along LOLA's map, in either game.
    """

    games: tuple[str, ...] = ("small dilemma", "dilemma")
    step_size: float = 5.0
    steps: int = 400
    starts: int = 40
    spreads: tuple[float, ...] = (0.3, 1.0)
    look_ahead: float = 10.0
    searches: int = 4
    search_spread: float = 0.3
    ascent_steps: tuple[int, ...] = (25, 10)
    ascent_rates: tuple[float, ...] = (0.3, 0.2)
    distances: tuple[float, ...] = (1.0, 4.0)
    directions: int = 4
    exponent_steps: int = 10
    refinements: int = 3
    controls: int = 10
    shaped_look_ahead: float = 5.0
    shaped_ascent_steps: int = 15
    shaped_ascent_rate: float = 0.1
    shaped_distance: float = 2.0
    shaped_exponent_steps: int = 5
    shaped_refinements: int = 2


SMALL = Settings()
FULL = dataclasses.replace(SMALL, steps=2000, starts=200, searches=20, ascent_steps=(50, 30), directions=6, controls=50)

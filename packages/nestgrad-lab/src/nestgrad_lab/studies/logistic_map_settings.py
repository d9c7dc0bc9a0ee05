"""Settings of the study logistic-map."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run.

    growth: the least and the largest r; points: how many between them. settle: steps before anything is looked at.
    steps: of an exponent, shown: of them in the diagram. start: of x. exact_steps, starts: of the exponent at r = 4.
    at_once: values of r that are iterated together.
    """

    growth: tuple[float, ...] = (2.5, 4.0)
    points: int = 300
    settle: int = 500
    steps: int = 400
    shown: int = 80
    start: float = 0.3
    exact_steps: int = 5000
    starts: int = 8
    at_once: int = 20


SMALL = Settings()
FULL = dataclasses.replace(SMALL, points=1500, settle=2000, steps=2000, shown=200, exact_steps=50_000)

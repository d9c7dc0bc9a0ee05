"""Settings of the study gan-exponents."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run.

    step_sizes, moduli, arguments: of complex momentum, a run for each three that stand together. hidden, batch, steps:
    of the GAN, which is otherwise that of mixture-gan. run: the seed of its weights and batches. every: steps between
    two looks. exponents: how many, over so many steps of play with one batch, refined so often.
    """

    step_sizes: tuple[float, ...] = (0.03, 0.03, 0.03)
    moduli: tuple[float, ...] = (0.8, 0.6, 0.3)
    arguments: tuple[float, ...] = (0.0, math.pi / 8, math.pi)
    hidden: int = 32
    batch: int = 64
    steps: int = 4000
    run: int = 3
    every: int = 500
    exponents: int = 2
    num_steps: int = 10
    refinements: int = 2


SMALL = Settings()
FULL = dataclasses.replace(SMALL, steps=20_000, exponents=10, num_steps=50, refinements=5)

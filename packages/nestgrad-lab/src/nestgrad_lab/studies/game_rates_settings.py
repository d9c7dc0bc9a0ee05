"""Settings of the study game-rates."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run.

    singular_values: of the bilinear game. arguments: of β, in radians. steps: of a played trajectory, at most.
    dirac_*: the step size, and |β| and arg β by pairs. grid: step sizes and moduli of the map. sweep: arguments between
    0 and π for the best rate. disk: points across the unit disk of β; tried: random β on which the condition for small
    steps is held against the rate. shown: steps of the pictured trajectories.
    """

    singular_values: tuple[float, ...] = (1.0,)
    arguments: tuple[float, ...] = (0.0, math.pi / 8, math.pi / 4, math.pi / 2, math.pi)
    steps: int = 3000
    dirac_step: float = 0.1
    dirac_moduli: tuple[float, ...] = (0.0, 0.9, 0.5, 0.9, 0.9)
    dirac_arguments: tuple[float, ...] = (0.0, 0.0, math.pi, math.pi / 8, math.pi / 2)
    dirac_steps: int = 6000
    grid: tuple[int, ...] = (90, 80)
    sweep: int = 17
    disk: int = 101
    disk_steps: tuple[float, ...] = (0.001, 0.3, 1.0)
    tried: int = 2000
    shown: int = 300


SMALL = Settings()
FULL = dataclasses.replace(
    SMALL, singular_values=(0.25, 0.5, 0.75, 1.0), steps=10_000, grid=(150, 120), sweep=33, disk=151, tried=20_000
)

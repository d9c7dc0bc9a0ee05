"""Settings of the study mixed-games."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run.

    size: of either player; curvatures: from the first to the last, evenly. sweep: values of γ_max from 0 to 1.
    arguments: of β, in radians. played: values of γ_max at which the best settings are also played, for so many steps.
    """

    size: int = 7
    curvatures: tuple[float, ...] = (0.25, 4.0)
    sweep: int = 11
    arguments: tuple[float, ...] = (0.0, math.pi / 8, math.pi / 4, math.pi / 2, math.pi)
    played: tuple[float, ...] = (0.0, 0.5, 1.0)
    steps: int = 3000


SMALL = Settings()
FULL = dataclasses.replace(SMALL, sweep=41, arguments=tuple(k * math.pi / 16 for k in range(17)), steps=10_000)

"""Settings of the study response-curve."""

from __future__ import annotations

import dataclasses

import numpy as np

from nestgrad_lab.data.dataset import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run.

    loss: squared-error, or log-density (scale 0.1). penalty: of e^λ ‖w‖**penalty. center, variance, highest: of p(λ),
    and where it is clipped. local_variances, local_starts: of p(λ|λ̂) and of λ̂, each with each. outer_rows: of a hyper
    step's batch. grid: first, last, points.
    """

    data: str = "mnist"
    loss: str = "squared-error"
    penalty: int = 2
    train_rows: int = 100
    valid_rows: int = 10_000
    outer_rows: int = 1000
    init_scale: float = 0.01
    samples: int = 2
    hidden: int = 50
    center: float = 0.0
    variance: float = 1.5
    highest: float = 100.0
    start: float = 0.0
    global_steps: int = 10_000
    global_rate: float = 3e-4
    global_outer_steps: int = 1000
    global_outer_rate: float = 0.01
    local_optimizer: str = "adam"
    local_variances: tuple[float, ...] = (1e-5, 0.1)
    local_starts: tuple[float, ...] = (1.0, -3.5)
    local_steps: int = 8000
    local_rate: float = 1e-3
    local_outer_rate: float = 1e-3
    grid: tuple[float, float, int] = (-3.0, 2.0, 11)
    retrain_steps: int = 3000
    retrain_rate: float = 1e-3


TEXT = Settings()
RELEASED = dataclasses.replace(
    TEXT,
    loss="log-density",
    penalty=1,
    train_rows=10,
    samples=10,
    center=1.0,
    variance=9.0,
    highest=4.0,
    start=1.0,
    local_optimizer="sgd",
    local_variances=(0.0,),
    local_starts=(-3.5,),
    local_rate=1e-4,
    local_outer_rate=3.16e-3,
    grid=(-1.0, 3.0, 10),
    retrain_steps=1000,
)
FULL = {
    "global_steps": 100_000,
    "global_rate": 1e-4,
    "global_outer_steps": 100_000,
    "global_outer_rate": 1e-4,
    "local_steps": 100_000,
}
FULL_TEXT = dataclasses.replace(
    TEXT, **FULL, local_rate=1e-4, local_outer_rate=1e-4, retrain_steps=100_000, retrain_rate=1e-4
)
FULL_RELEASED = dataclasses.replace(RELEASED, **FULL, retrain_rate=1e-4)
SEARCHED = 1000
"""Points at which the minimum of a response is looked for."""


def grid_of(settings: Settings) -> Array:
    """The λ of the retrained weights."""
    first, last, points = settings.grid
    return np.linspace(first, last, int(points))


def searched(settings: Settings) -> Array:
    """The λ at which a response is looked at."""
    return np.linspace(*settings.grid[:2], SEARCHED)

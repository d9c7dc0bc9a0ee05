"""Settings of the study many-decays."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run.

    start: every λ at first. unrolled_steps: of a run of training, unrolled_runs: so many of them, one a hyper step.
    looks: losses are looked at so often, on all rows.
    """

    data: str = "mnist"
    layers: tuple[int, ...] = (1, 2, 3)
    hidden: int = 20
    train_rows: int = 1000
    valid_rows: int = 1000
    test_rows: int = 2000
    batch: int = 100
    init_scale: float = 0.01
    start: float = -3.0
    rank: int = 10
    samples: int = 2
    variance: float = 1e-5
    steps: int = 6000
    rate: float = 1e-4
    outer_rate: float = 1e-3
    unrolled_steps: int = 100
    unrolled_rate: float = 3e-3
    unrolled_runs: int = 40
    unrolled_outer_rate: float = 0.1
    looks: int = 40


SMALL = Settings()
FULL = dataclasses.replace(
    SMALL,
    train_rows=10_000,
    valid_rows=10_000,
    test_rows=10_000,
    hidden=50,
    steps=200_000,
    outer_rate=1e-4,
    unrolled_steps=1000,
    unrolled_rate=1e-3,
    unrolled_runs=1000,
)
PARTS = ("train", "valid", "test")

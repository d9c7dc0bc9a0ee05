"""Settings of the study distillation."""

from __future__ import annotations

import dataclasses

METHODS = ("identity", "neumann", "cg", "unrolled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run.

    runs: seeds of each method; real_draws: of one real image a class. inner_steps: between hyper steps; unrolled_steps:
    of an unrolled run; rate: of all of them. terms: of the series, and steps of CG. fresh_steps, fresh_rate: of the new
    models. looks: times that one is trained on the way.
    """

    data: str = "mnist"
    methods: tuple[str, ...] = METHODS
    valid_rows: tuple[int, ...] = (100, 10_000)
    test_rows: int = 10_000
    runs: int = 3
    real_draws: int = 20
    decay: float = 0.1
    rate: float = 0.5
    inner_steps: int = 20
    unrolled_steps: int = 50
    terms: int = 20
    hyper_steps: int = 250
    outer_rate: float = 0.002
    fresh_steps: int = 500
    fresh_rate: float = 0.01
    looks: int = 10


SMALL = Settings()
FULL = dataclasses.replace(SMALL, valid_rows=(100, 10_000, 50_000), runs=10, real_draws=100, hyper_steps=10_000)

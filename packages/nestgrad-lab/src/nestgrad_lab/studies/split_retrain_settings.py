"""Settings of the study split-retrain."""

from __future__ import annotations

import dataclasses

KINDS = ("one decay", "one for each weight")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run.

    sizes: rows, of training and validation together. shares: that validate. log_decay: every λ at the start.
    """

    data: str = "mnist"
    sizes: tuple[int, ...] = (100, 200, 1600)
    shares: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
    kinds: tuple[str, ...] = KINDS
    test_rows: int = 10_000
    runs: int = 4
    log_decay: float = -4.0
    rate: float = 0.01
    outer_rate: float = 0.05
    epochs: int = 250


SMALL = Settings()
FULL = dataclasses.replace(SMALL, runs=20, epochs=1000)

"""Settings of the study gaussian-process."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run.

    points: seen by the Gaussian process; held: others. low, high: bounds of each λ. hidden: ReLU units of a response, 0
    for a linear one. samples: λ in a step of a response. chunk: λ optimised in one piece.
    """

    data: str = "mnist"
    train_rows: int = 100
    valid_rows: int = 2000
    batch: int = 100
    points: int = 25
    held: int = 375
    low: float = -3.0
    high: float = 3.0
    init_scale: float = 1e-5
    steps: int = 600
    rate: float = 2e-3
    hidden: int = 50
    samples: int = 5
    response_rate: float = 3e-4
    chunk: int = 100

    @property
    def response_steps(self) -> int:
        """As many gradients of the data loss as the optimised points take."""
        return self.points * self.steps // self.samples


SMALL = Settings()
FULL = dataclasses.replace(
    SMALL,
    response_rate=1e-4,
    train_rows=50_000,
    valid_rows=10_000,
    batch=100,
    held=10_215,
    steps=1000,
    rate=1e-4,
)

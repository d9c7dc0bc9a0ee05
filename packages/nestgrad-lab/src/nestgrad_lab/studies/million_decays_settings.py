"""Settings of the study million-decays."""

from __future__ import annotations

import dataclasses

PARTS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run.

    sizes: of the layers, inputs first. outer_rows: of a hyper step. decay: λ at first. cost_rows: of both batches where
    costs are measured. rounds: of the time measurements.
    """

    data: str = "mnist"
    train_rows: int = 1000
    valid_rows: int = 1000
    test_rows: int = 5000
    sizes: tuple[int, ...] = (784, 1000, 250, 10)
    batch_rows: int = 100
    outer_rows: int = 1000
    steps: int = 400
    every: int = 5
    terms: int = 5
    rate: float = 0.05
    momentum: float = 0.9
    decay: float = 1e-3
    outer_rate: float = 0.2
    looks: int = 20
    runs: int = 3
    cost_rows: int = 256
    rounds: int = 9


SMALL = Settings()
FULL = dataclasses.replace(
    SMALL,
    train_rows=50_000,
    valid_rows=10_000,
    test_rows=10_000,
    batch_rows=256,
    steps=20_000,
    every=10,
    outer_rate=0.05,
    looks=100,
    rounds=25,
)

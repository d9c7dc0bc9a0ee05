"""Settings of the study recurrent-regularisation."""

from __future__ import annotations

import dataclasses

RATES = ("input", "hidden", "output", "embedding", "connect")
PENALTIES = ("alpha", "beta")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run.

    train_windows and so on: windows of so many words. rate: of clipped SGD, divided by 4 after `patience` looks without
    a lower validation loss, at most `drops` times. first_rate, first_penalty: where hyperparameters begin, and stay
    untuned. outer_rate, many_outer_rate: of Adam for seven, and for many. draws: of the random search, rates uniform
    below highest_rate, α and β log-uniform in penalties.
    """

    vocabulary: int = 500
    window: int = 20
    train_windows: int = 400
    valid_windows: int = 300
    test_windows: int = 600
    hidden: int = 64
    layers: int = 2
    batch_rows: int = 20
    outer_rows: int = 20
    steps: int = 720
    every: int = 3
    terms: int = 1
    rate: float = 10.0
    clip: float = 0.25
    outer_rate: float = 0.02
    many_outer_rate: float = 0.05
    patience: int = 4
    drops: int = 2
    looks: int = 24
    first_rate: float = 0.05
    first_penalty: float = 1e-3
    draws: int = 3
    highest_rate: float = 0.75
    penalties: tuple[float, float] = (1e-3, 10.0)
    runs: int = 3


SMALL = Settings()
FULL = dataclasses.replace(
    SMALL,
    vocabulary=33_278,
    window=70,
    train_windows=29_837,
    valid_windows=3109,
    test_windows=3508,
    hidden=650,
    batch_rows=40,
    outer_rows=40,
    steps=60_000,
    rate=30.0,
    outer_rate=1e-3,
    many_outer_rate=1e-3,
    patience=20,
    drops=4,
    looks=80,
    draws=20,
)
TUNED = ("seven", "many")

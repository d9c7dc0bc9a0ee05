"""Settings of the study augmentation."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run.

    network: convolutions, or resnet-18; width: its first channels. drops, outer_drops: shares of the steps after which
    a rate is multiplied by 0.2. outer_optimizer: adam, or sgd with Nesterov's momentum. regulariser: r. samples: of x̄,
    in the regulariser. predictions: with augmented images, beside that with the plain one. look: r and the number of
    training steps at which the direct term is looked at.
    """

    data: str = "cifar-10-subset"
    train_rows: int = 1000
    valid_rows: int = 1000
    test_rows: int = 1000
    network: str = "convolutions"
    width: int = 8
    filters: int = 4
    batch_rows: int = 50
    outer_rows: int = 100
    steps: int = 600
    every: int = 9
    terms: int = 3
    rate: float = 0.03
    momentum: float = 0.9
    decay: float = 5e-4
    drops: tuple[float, ...] = (0.6, 0.85)
    outer_optimizer: str = "adam"
    outer_rate: float = 0.02
    outer_drops: tuple[float, ...] = (1.0,)
    regulariser: float = 0.0
    samples: int = 10
    predictions: int = 5
    look: tuple[float, int] = (0.5, 180)
    runs: int = 5


SMALL = Settings()
FULL = dataclasses.replace(
    SMALL,
    data="cifar-10",
    train_rows=45_000,
    valid_rows=5000,
    test_rows=10_000,
    network="resnet-18",
    width=64,
    batch_rows=128,
    outer_rows=128,
    steps=70_400,
    rate=0.1,
    drops=(0.3, 0.6, 0.8),
    outer_optimizer="sgd",
    outer_rate=0.1,
    outer_drops=(0.2, 0.5, 0.7),
    runs=3,
)

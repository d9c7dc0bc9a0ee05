"""Settings of the study overfit-validation."""

from __future__ import annotations

import dataclasses

MODELS = ("linear", "mlp", "convolutional")
METHODS = ("fixed", "identity", "neumann")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run.

    rows: that train, and as many that validate. runs: draws of rows and weights. hidden: units of the mlp; filters: of
    the two convolutions. log_decay: every λ at the start. inner_steps: training steps per hyper step. terms: of
    neumann. looks: times that losses are taken on the way.
    """

    data: str = "mnist"
    models: tuple[str, ...] = MODELS
    methods: tuple[str, ...] = METHODS
    rows: int = 50
    test_rows: int = 2000
    runs: int = 3
    hidden: int = 50
    filters: tuple[int, int] = (4, 8)
    log_decay: float = -4.0
    rate: float = 1e-3
    outer_rate: float = 0.05
    inner_steps: int = 5
    hyper_steps: int = 600
    terms: int = 5
    looks: int = 20


SMALL = Settings()
FULL = dataclasses.replace(
    SMALL, test_rows=10_000, runs=10, filters=(16, 32), rate=1e-4, outer_rate=0.01, hyper_steps=20_000
)

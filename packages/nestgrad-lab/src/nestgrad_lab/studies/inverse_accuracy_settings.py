"""Settings of the study inverse-accuracy."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of a run.

    log_decays: every λ at the start, a run each. looks: hyper steps before which hypergradients are compared. tuned_by:
    terms of the series that λ follows. terms, cg_steps: compared ones. step_size: of all series. side, rows, decay: of
    the images and their classifier. orders: of the series for its inverse, 0 being I.
    """

    data: str = "uci/boston"
    log_decays: tuple[float, ...] = (-4.0, 0.0)
    warm_up: int = 200
    rate: float = 0.01
    outer_rate: float = 0.01
    looks: tuple[int, ...] = (0, 50, 100, 200, 400)
    tuned_by: int = 20
    terms: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 50, 100, 200)
    cg_steps: tuple[int, ...] = (1, 2, 4, 6, 9, 14)
    step_size: float = 0.1
    images: str = "mnist"
    side: int = 7
    rows: int = 1000
    decay: float = 0.01
    orders: tuple[int, ...] = (0, 1, 2, 4, 9, 99)


SMALL = Settings()
FULL = dataclasses.replace(SMALL, log_decays=(-6.0, -4.0, -2.0, 0.0), side=14, rows=10_000)

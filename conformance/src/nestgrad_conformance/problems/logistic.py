"""Logistic regression with one weight a training row, and a decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems._case import Case


@dataclass(frozen=True)
class LogisticInner:
    """mean exp(s_i) log(1 + exp(-y_i (x_iᵀw + b))) + ½ exp(λ) (|w|² + b²)."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        x, y = batch
        margins = y * (x @ params["w"] + params["b"])
        losses = self.xp.exp(hparams["row_weights"]) * self.xp.log(1.0 + self.xp.exp(-margins))
        size = self.xp.sum(params["w"] ** 2) + params["b"] ** 2
        return self.xp.sum(losses) / x.shape[0] + 0.5 * self.xp.exp(hparams["decay"]) * size


@dataclass(frozen=True)
class LogisticOuter:
    """mean log(1 + exp(-y_i (x_iᵀw + b))) + 0.05 λ², so that λ has a direct term and the row weights have none."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        x, y = batch
        margins = y * (x @ params["w"] + params["b"])
        return self.xp.sum(self.xp.log(1.0 + self.xp.exp(-margins))) / x.shape[0] + 0.05 * hparams["decay"] ** 2


def logistic(draw: Draw, n: int = 3, rows: int = 7, outer_rows: int = 4) -> Case:
    """A drawn logistic problem at a drawn (not optimal) point."""
    return Case(
        inner_loss=LogisticInner,
        outer_loss=LogisticOuter,
        params={"w": draw.normal(n), "b": draw.normal()},
        hparams={"row_weights": 0.3 * draw.normal(rows), "decay": np.asarray(0.3 * draw.normal() - 1.0)},
        inner_batch=(draw.normal(rows, n), draw.rng.choice([-1.0, 1.0], rows)),
        outer_batch=(draw.normal(outer_rows, n), draw.rng.choice([-1.0, 1.0], outer_rows)),
    )

"""Ridge regression with one decay, or one a weight, and its closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems._case import Case


@dataclass(frozen=True)
class SquaredError:
    """½ mean (Xw - y)²."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        x, y = batch
        return 0.5 * self.xp.sum((x @ params["w"] - y) ** 2) / x.shape[0]


@dataclass(frozen=True)
class RidgeInner:
    """½ mean (Xw - y)² + ½ Σ exp(λ_i) w_i²; a 0-d λ is shared."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        decay = self.xp.sum(self.xp.exp(hparams["decay"]) * params["w"] ** 2)
        return SquaredError(self.xp)(params, hparams, batch) + 0.5 * decay


def ridge(draw: Draw, n: int, *, shared: bool, rows: int = 9, outer_rows: int = 5) -> Case:
    """A drawn ridge problem at its solution."""
    x, y = draw.normal(rows, n), draw.normal(rows)
    decay = np.asarray(0.5 * draw.normal() - 1.0) if shared else 0.5 * draw.normal(n) - 1.0
    curvature = x.T @ x / rows + np.diag(np.broadcast_to(np.exp(decay), (n,)))
    return Case(
        inner_loss=RidgeInner,
        outer_loss=SquaredError,
        params={"w": np.linalg.solve(curvature, x.T @ y / rows)},
        hparams={"decay": decay},
        inner_batch=(x, y),
        outer_batch=(draw.normal(outer_rows, n), draw.normal(outer_rows)),
    )


def ridge_closed_form(case: Case) -> np.ndarray:
    """G_i = -exp(λ_i) w_i v_i with v = H⁻¹(Qw - q); their sum for a shared λ."""
    x: np.ndarray = case.inner_batch[0]
    w: np.ndarray = case.params["w"]
    xv, yv = case.outer_batch
    slope: np.ndarray = xv.T @ (xv @ w - yv) / xv.shape[0]
    decay = np.broadcast_to(np.exp(case.hparams["decay"]), w.shape)
    curvature = x.T @ x / x.shape[0] + np.diag(decay)
    each: np.ndarray = -decay * w * np.linalg.solve(np.asarray(curvature), slope)
    return each if case.hparams["decay"].ndim else np.asarray(each.sum())

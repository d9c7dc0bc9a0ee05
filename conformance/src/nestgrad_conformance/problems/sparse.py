"""Non-smooth inner problems: least squares with a penalty that has an active set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems._case import Case
from nestgrad_conformance.problems.ridge import SquaredError


@dataclass(frozen=True)
class LassoFrom:
    """λ|w|₁ with λ = exp(h["l1"]), for all weights or one a weight."""

    prox: Any

    def __call__(self, hparams: Any) -> Any:
        return self.prox.lasso(_natural(hparams["l1"]))


@dataclass(frozen=True)
class ElasticNetFrom:
    """λ₁|w|₁ + ½λ₂|w|², the logarithms of both being hyperparameters."""

    prox: Any

    def __call__(self, hparams: Any) -> Any:
        return self.prox.elastic_net(_natural(hparams["l1"]), _natural(hparams["l2"]))


@dataclass(frozen=True)
class GroupLassoFrom:
    """λ Σ |w_g| over the rows of a matrix."""

    prox: Any

    def __call__(self, hparams: Any) -> Any:
        return self.prox.group_lasso(_natural(hparams["l1"]))


@dataclass(frozen=True)
class BoxFrom:
    """w between h["low"] and h["high"]."""

    prox: Any

    def __call__(self, hparams: Any) -> Any:
        return self.prox.box(hparams["low"], hparams["high"])


def _natural(log: Any) -> Any:
    """exp(log), written so that it needs no namespace; a tree for one a weight."""
    return {key: np.e**value for key, value in log.items()} if isinstance(log, dict) else np.e**log


@dataclass(frozen=True)
class MatrixSquaredError:
    """½ mean (Σ_gk x_gk w_gk - y)²."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        x, y = batch
        predictions = self.xp.sum(self.xp.sum(x * params["w"], -1), -1)
        return 0.5 * self.xp.sum((predictions - y) ** 2) / x.shape[0]


def sparse(draw: Draw, n: int = 4, *, penalty: str = "lasso", rows: int = 12, solved: bool = False) -> Case:
    """Penalised least squares, two of its weights well inside the zero set when solved; else at a drawn point.

    penalty: lasso, weighted, elastic net, group or box. Every coordinate is away from its kink.
    """
    x, noise = draw.normal(rows, n), 0.1 * draw.normal(rows)
    truth = np.where(np.arange(n) < n // 2, 2.0 + draw.rng.uniform(0.0, 1.0, n), 0.0)
    y = x @ truth + noise
    level = np.log(0.3 + 0.1 * draw.rng.uniform())
    hparams: Any = {"l1": np.asarray(level)}
    make: Any = {"lasso": LassoFrom, "weighted": LassoFrom, "elastic net": ElasticNetFrom, "box": BoxFrom}.get(penalty)
    if penalty == "weighted":
        hparams = {"l1": {"w": level + 0.2 * draw.normal(n)}}
    if penalty == "elastic net":
        hparams["l2"] = np.asarray(-1.0 + 0.2 * draw.normal())
    if penalty == "box":
        hparams = {"low": np.asarray(-0.2), "high": np.asarray(1.0 + 0.1 * draw.normal())}
    case = Case(
        inner_loss=SquaredError,
        outer_loss=SquaredError,
        params={"w": truth + 0.5 * draw.normal(n)},
        hparams=hparams,
        inner_batch=(x, y),
        outer_batch=(draw.normal(8, n), draw.normal(8)),
        kind="proximal",
        prox=make,
        step_size=0.25,
    )
    if penalty == "group":
        return _in_groups(case, draw)
    return case.with_(params={"w": proximal_solution(case)}) if solved else case


def _in_groups(case: Case, draw: Draw) -> Case:
    x, y = case.inner_batch
    xv, yv = case.outer_batch
    shape = (x.shape[1] // 2, 2)
    return case.with_(
        inner_loss=MatrixSquaredError,
        outer_loss=MatrixSquaredError,
        params={"w": case.params["w"].reshape(shape)},
        inner_batch=(x.reshape(-1, *shape), y),
        outer_batch=(xv.reshape(-1, *shape), yv),
        prox=GroupLassoFrom,
    )


def proximal_solution(case: Case) -> np.ndarray:
    """The minimiser of (weighted) lasso, elastic net or a box, by coordinate descent to machine precision."""
    (x, y), rows = case.inner_batch, case.inner_batch[0].shape[0]
    curvature, target = x.T @ x / rows, x.T @ y / rows
    n = target.size
    w = np.zeros(n)
    for _ in range(5000):
        before = w.copy()
        for j in range(n):
            free = target[j] - curvature[j] @ w + curvature[j, j] * w[j]
            w[j] = _coordinate(case, free, curvature[j, j], j)
        if np.abs(w - before).max() <= 1e-15 * max(1.0, float(np.abs(w).max())):
            return w
    raise AssertionError("coordinate descent did not settle")


def _coordinate(case: Case, free: float, curve: float, j: int) -> float:
    h = case.hparams
    if "low" in h:
        return float(np.clip(free / curve, h["low"], h["high"]))
    l1 = np.exp(h["l1"]["w"][j]) if isinstance(h["l1"], dict) else np.exp(h["l1"])
    l2 = np.exp(h["l2"]) if "l2" in h else 0.0
    return float(np.sign(free) * max(abs(free) - l1, 0.0) / (curve + l2))


def active_set_form(case: Case) -> dict[str, np.ndarray]:
    """The hypergradient of a solved lasso, weighted lasso or elastic net by its active set S: v_S = A_S⁻¹ g_S,
    -e^{l1} sᵀv in log λ₁ (entry by entry when weighted), -e^{l2} wᵀv in log λ₂.
    """
    x, w = case.inner_batch[0], case.params["w"]
    xv, yv = case.outer_batch
    active = w != 0.0
    curvature = x[:, active].T @ x[:, active] / x.shape[0]
    h = case.hparams
    if "l2" in h:
        curvature = curvature + np.exp(h["l2"]) * np.eye(int(active.sum()))
    slope = (xv.T @ (xv @ w - yv) / xv.shape[0])[active]
    adjoint = np.zeros_like(w)
    adjoint[active] = np.linalg.solve(curvature, slope)
    found: dict[str, Any] = {}
    if isinstance(h["l1"], dict):
        found["l1"] = {"w": -np.exp(h["l1"]["w"]) * np.sign(w) * adjoint}
    else:
        found["l1"] = np.asarray(-np.exp(h["l1"]) * (np.sign(w) @ adjoint))
    if "l2" in h:
        found["l2"] = np.asarray(-np.exp(h["l2"]) * (w @ adjoint))
    return found

"""The quadratic problem with a closed form (direct term included)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems._case import Case


@dataclass(frozen=True)
class QuadraticInner:
    """½wᵀHw - (c + Cλ)ᵀw."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        w = params["w"]
        return self.xp.sum(0.5 * w * (batch["H"] @ w) - (batch["c"] + batch["C"] @ hparams["shift"]) * w)


@dataclass(frozen=True)
class QuadraticOuter:
    """½(w - t)ᵀQ(w - t) + ½ρ|λ|²."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        away = params["w"] - batch["t"]
        quadratic = self.xp.sum(0.5 * away * (batch["Q"] @ away))
        return quadratic + self.xp.sum(0.5 * batch["rho"] * hparams["shift"] ** 2)


def quadratic(draw: Draw, n: int, m: int, *, condition: float = 30.0, H: np.ndarray | None = None) -> Case:
    """A drawn quadratic problem at a drawn (not optimal) point."""
    curvature = draw.hessian(n, condition) if H is None else H
    return Case(
        inner_loss=QuadraticInner,
        outer_loss=QuadraticOuter,
        params={"w": draw.normal(n)},
        hparams={"shift": draw.normal(m)},
        inner_batch={"H": curvature, "c": draw.normal(n), "C": draw.normal(n, m)},
        outer_batch={"Q": draw.hessian(n, 3.0), "t": draw.normal(n), "rho": np.asarray(0.3)},
    )


def quadratic_optimum(case: Case) -> np.ndarray:
    """w* = H⁻¹(c + Cλ)."""
    batch: dict[str, np.ndarray] = case.inner_batch
    shift: np.ndarray = batch["C"] @ case.hparams["shift"]
    return np.linalg.solve(batch["H"], batch["c"] + shift)


def quadratic_closed_form(case: Case) -> np.ndarray:
    """CᵀH⁻¹Q(w - t) + ρλ, exact at every w since H and C are constant."""
    return case.inner_batch["C"].T @ _adjoint(case) + case.outer_batch["rho"] * case.hparams["shift"]


def quadratic_scale(case: Case) -> np.ndarray:
    """|C|ᵀ|H⁻¹Q(w - t)| + |ρλ|: what the rounding errors of the closed form's own sums are measured against."""
    through_params = np.abs(case.inner_batch["C"]).T @ np.abs(_adjoint(case))
    return through_params + np.abs(case.outer_batch["rho"] * case.hparams["shift"])


def _adjoint(case: Case) -> np.ndarray:
    """H⁻¹Q(w - t)."""
    curvature: np.ndarray = case.inner_batch["H"]
    slope: np.ndarray = case.outer_batch["Q"] @ (case.params["w"] - case.outer_batch["t"])
    return np.linalg.solve(curvature, slope)

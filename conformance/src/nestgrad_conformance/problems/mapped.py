"""Fixed points and roots: linear ones with closed forms, and a smooth one without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems._case import Case
from nestgrad_conformance.problems.quadratic import QuadraticOuter
from nestgrad_conformance.problems.scalar import Distance


@dataclass(frozen=True)
class LinearMap:
    """Mw + Cλ + c."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return {"w": batch["M"] @ params["w"] + batch["C"] @ hparams["shift"] + batch["c"]}


@dataclass(frozen=True)
class TanhMap:
    """tanh(Mw + Cλ + c): a small equilibrium network."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return {"w": self.xp.tanh(LinearMap(self.xp)(params, hparams, batch)["w"])}


@dataclass(frozen=True)
class LinearResidual:
    """Aw - Cλ - c."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return {"w": batch["M"] @ params["w"] - batch["C"] @ hparams["shift"] - batch["c"]}


@dataclass(frozen=True)
class TanhResidual:
    """Aw + tanh(w) - Cλ - c."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return {"w": LinearResidual(self.xp)(params, hparams, batch)["w"] + self.xp.tanh(params["w"])}


@dataclass(frozen=True)
class Babylonian:
    """½(w + λ/w), whose fixed point is √λ and whose slope there is 0."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return 0.5 * (params + hparams / params)


def contraction(draw: Draw, n: int, radius: float = 0.7) -> np.ndarray:
    """A drawn matrix that is not normal, its spectral radius at most `radius`."""
    matrix = draw.normal(n, n)
    return radius * matrix / np.abs(np.linalg.eigvals(matrix)).max()


def well_conditioned(draw: Draw, n: int, condition: float = 5.0) -> np.ndarray:
    """A drawn matrix that is not symmetric, with singular values from 1/condition to 1."""
    left, _ = np.linalg.qr(draw.normal(n, n))
    right, _ = np.linalg.qr(draw.normal(n, n))
    values = np.geomspace(1.0 / condition, 1.0, n) if n > 1 else np.ones(1)
    return left @ np.diag(values) @ right.T


def mapped(draw: Draw, n: int, m: int, *, kind: Any, matrix: np.ndarray | None = None, smooth: bool = False) -> Case:
    """A drawn fixed point or root at a drawn (not solved) point."""
    if matrix is None:
        matrix = contraction(draw, n) if kind == "fixed point" else well_conditioned(draw, n)
    makes: dict[tuple[str, bool], Any] = {
        ("fixed point", False): LinearMap,
        ("fixed point", True): TanhMap,
        ("root", False): LinearResidual,
        ("root", True): TanhResidual,
    }
    return Case(
        inner_loss=makes[kind, smooth],
        outer_loss=QuadraticOuter,
        params={"w": draw.normal(n)},
        hparams={"shift": draw.normal(m)},
        inner_batch={"M": matrix, "c": draw.normal(n), "C": draw.normal(n, m)},
        outer_batch={"Q": draw.hessian(n, 3.0), "t": draw.normal(n), "rho": np.asarray(0.3)},
        kind=kind,
    )


def mapped_closed_form(case: Case) -> np.ndarray:
    """Jᵀ ∂L_out/∂w + ρλ with J = (I - M)⁻¹C of a linear fixed point, A⁻¹C of a linear root."""
    return _response(case).T @ _slope(case) + case.outer_batch["rho"] * case.hparams["shift"]


def mapped_scale(case: Case) -> np.ndarray:
    """|J|ᵀ|∂L_out/∂w| + |ρλ|, no less than the norms of the two factors."""
    response, slope = _response(case), _slope(case)
    size = np.linalg.norm(response) * np.linalg.norm(slope)
    return size + np.abs(case.outer_batch["rho"] * case.hparams["shift"])


def _response(case: Case) -> np.ndarray:
    matrix: np.ndarray = case.inner_batch["M"]
    if case.kind == "fixed point":
        matrix = np.eye(matrix.shape[0]) - matrix
    return np.linalg.solve(matrix, case.inner_batch["C"])


def _slope(case: Case) -> np.ndarray:
    return case.outer_batch["Q"] @ (case.params["w"] - case.outer_batch["t"])


def babylonian(draw: Draw) -> tuple[Case, np.ndarray]:
    """w* = √λ, G = (√λ - b) / (2√λ): one step is exact, since the map's slope in w vanishes at its fixed point."""
    level, b = np.exp(draw.normal()), draw.normal()
    case = Case(
        inner_loss=Babylonian,
        outer_loss=Distance,
        params=np.asarray(np.sqrt(level)),
        hparams=np.asarray(level),
        inner_batch=np.asarray(0.0),
        outer_batch=b,
        kind="fixed point",
    )
    return case, np.asarray((np.sqrt(level) - b) / (2.0 * np.sqrt(level)))

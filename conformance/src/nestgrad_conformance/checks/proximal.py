"""Non-smooth inner problems: the derivative on the active set, and a flag at its edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import assume

from nestgrad import GMRES, Dense, Identity, NearKink, Neumann, Status, tree
from nestgrad_conformance import problems
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expecting import refused
from nestgrad_conformance.problems.ridge import SquaredError
from nestgrad_conformance.registry import check

_NEEDS = ("ProximalGradient", "prox", "Dense")
_PENALTIES = ["lasso", "weighted", "elastic net", "group", "box"]


@check(*_NEEDS, "Neumann", "Identity")
def proximal_problems_equal_the_reference_anywhere(ctx: Context, draw: Draw) -> None:
    """F = w - prox(w - γ∇f) at any point: Dense, a series and one term are their formulas, for every penalty."""
    case = problems.sparse(draw, penalty=draw.pick(_PENALTIES, "penalty"))
    ctx.assume_conditioned(case)
    ctx.agree(case, draw.pick([Dense(), Neumann(num_terms=3, step_size=1.0), Identity()], "solver"))


@check(*_NEEDS, "GMRES")
def penalties_equal_their_active_set_form(ctx: Context, draw: Draw) -> None:
    """At the solution of lasso, weighted lasso and elastic net: -e^{l1} s_SᵀA_S⁻¹g_S, -e^{l2} w_SᵀA_S⁻¹g_S."""
    penalty = draw.pick(["lasso", "weighted", "elastic net"], "penalty")
    case = problems.sparse(draw, penalty=penalty, solved=True)
    ctx.assume_conditioned(case, 50.0)
    tolerance = 1e-10 if ctx.dtype == "float64" else 1e-5
    solver = draw.pick([Dense(), GMRES(rtol=tolerance, max_steps=10)], "solver")
    found = ctx.hypergradient(case, solver)
    right = problems.active_set_form(case)
    size = max(float(np.abs(leaf).max()) for leaf in tree.leaves(right)) + 0.1
    limit = 3e-3 if ctx.dtype == "float32" else 1e-8
    each = np.full(sum(np.size(leaf) for leaf in tree.leaves(right)), size)
    ctx.close(found.total, right, limit, what="total", scale=each)


@check(*_NEEDS, dtypes=("float64",))
def the_proximal_step_size_changes_nothing(ctx: Context, draw: Draw) -> None:
    """At a solution F with γ and with γ/2 have the same hypergradient."""
    case = problems.sparse(draw, penalty=draw.pick(["lasso", "elastic net", "box"], "penalty"), solved=True)
    ctx.assume_conditioned(case, 100.0)
    one, half = (
        ctx.numpy(ctx.hypergradient(each, Dense()).total) for each in (case, case.with_(step_size=case.step_size / 2))
    )
    for name, value in one.items():
        error = float(np.abs(value - half[name]).max())
        assert error <= 1e-8 * max(1.0, float(np.abs(value).max())), f"{name}: {value} and {half[name]}"


@check(*_NEEDS, dtypes=("float64",))
def proximal_hypergradients_equal_differences(ctx: Context, draw: Draw) -> None:
    """Central differences of the re-solved problem agree inside a linear piece of the path."""
    case = problems.sparse(draw, penalty=draw.pick(["lasso", "elastic net", "box"], "penalty"), solved=True)
    ctx.assume_conditioned(case, 50.0)
    found = ctx.numpy(ctx.hypergradient(case, Dense()).total)
    x, y = case.outer_batch
    step = 1e-6
    for name in case.hparams:
        losses = []
        for sign in (step, -step):
            moved = case.with_(hparams={**case.hparams, name: case.hparams[name] + sign})
            losses.append(0.5 * float(np.mean((x @ problems.proximal_solution(moved) - y) ** 2)))
        difference = (losses[0] - losses[1]) / (2 * step)
        error = abs(float(found[name]) - difference)
        assert error <= 1e-6 * max(1.0, abs(difference)), f"{name}: {found[name]}, difference {difference}"


@check(*_NEEDS)
def an_empty_active_set_leaves_the_direct_term(ctx: Context, draw: Draw) -> None:
    """A penalty that sets every weight to zero has no indirect term, and says nothing wrong about it."""
    case = problems.sparse(draw, penalty="lasso")
    (x, y) = case.inner_batch
    level = np.log(1.5 * np.abs(x.T @ y / x.shape[0]).max())
    case = case.with_(hparams={"l1": np.asarray(level)}, params={"w": np.zeros(4)})
    found = ctx.hypergradient(case, Dense())
    assert not np.any(ctx.numpy(found.total)["l1"]), f"total {found.total}, limit exactly 0"
    assert found.status is Status.CONVERGED, f"status {found.status!r}"


@check(*_NEEDS)
def kinks_are_flagged(ctx: Context, draw: Draw) -> None:
    """A coordinate at the edge of its active set raises NearKink; away from it nothing is said."""
    penalty = draw.pick(["lasso", "weighted", "elastic net", "box"], "penalty")
    case = problems.sparse(draw, penalty=penalty)
    seen = case.rounded(ctx.dtype)
    x, y = seen.inner_batch
    slope = x.T @ (x @ seen.params["w"] - y) / x.shape[0]
    z = float((seen.params["w"] - case.step_size * slope)[0])
    h: Any = dict(case.hparams)
    if penalty == "box":
        h["high" if z > 0 else "low"] = np.asarray(z)
        h["low" if z > 0 else "high"] = np.asarray(z - 2.0 if z > 0 else z + 2.0)
    elif penalty == "weighted":
        h["l1"] = {"w": np.concatenate([[np.log(abs(z) / case.step_size)], np.asarray(case.hparams["l1"]["w"])[1:]])}
    else:
        h["l1"] = np.asarray(np.log(abs(z) / case.step_size))
    edge = case.with_(hparams=h)
    tight = 1e-5 if ctx.dtype == "float32" else 1e-12
    with refused(NearKink, "kink"):
        ctx.hypergradient(edge.with_(kink_tol=tight), Dense())
    found = ctx.hypergradient(edge.with_(kink_tol=tight), Dense(), throw=False)
    assert found.status is Status.NEAR_KINK, f"status {found.status!r}"
    for name, leaf in tree.named_leaves(ctx.numpy(found.total)).items():
        assert np.isfinite(leaf).all(), f"total[{name!r}] = {leaf}, limit: the one-sided derivative"
    away = ctx.hypergradient(case.with_(kink_tol=0.0), Dense(), throw=False)
    assert away.status is not Status.NEAR_KINK or float(away.stats.kink_distance) < 1e-5, f"distance {away.stats}"


@check("prox", "Minimize", "Dense", dtypes=("float64",), slow=True)
def smoothed_absolute_values_tend_to_the_lasso(ctx: Context, draw: Draw) -> None:
    """√(w² + ε²) in place of |w|: the hypergradient is within O(ε) of the active set's."""
    case = problems.sparse(draw, penalty="lasso", solved=True)
    ctx.assume_conditioned(case, 50.0)
    assume(_margin(case) > 0.05)  # O(ε) has the distance from the nearest kink in its denominator
    right = problems.active_set_form(case)["l1"]
    maps: Any = ctx.harness.backend
    errors = []
    for width in (1e-2, 1e-3):
        w = _smoothed_solution(case, width)
        smooth = case.with_(inner_loss=_Smoothed(maps.prox, width), params={"w": w}, kind="minimize")
        found = float(ctx.numpy(ctx.hypergradient(smooth, Dense()).total)["l1"])
        errors.append(abs(found - float(right)))
    size = max(abs(float(right)), 0.1)
    assert errors[1] <= 0.3 * size, f"errors {errors} at widths 1e-2, 1e-3, size {size}"
    assert errors[1] <= 0.5 * errors[0] + 1e-6 * size, f"errors {errors} do not fall with the width"


def _margin(case: problems.Case) -> float:
    """The least of |w_j| on the support and of λ - |∇_j f| off it."""
    x, y = case.inner_batch
    w = case.params["w"]
    slope = x.T @ (x @ w - y) / x.shape[0]
    return float(np.where(w != 0.0, np.abs(w), np.exp(case.hparams["l1"]) - np.abs(slope)).min())


def _smoothed_solution(case: problems.Case, width: float) -> np.ndarray:
    """The minimiser with √(w² + width²) for |w|: reweighted least squares, which always descends, then Newton steps."""
    x, y = case.inner_batch
    curvature, target, level = x.T @ x / x.shape[0], x.T @ y / x.shape[0], float(np.exp(case.hparams["l1"]))
    w = case.params["w"] + width
    for _ in range(2000):
        w = np.linalg.solve(curvature + level * np.diag(1.0 / np.sqrt(w**2 + width**2)), target)
    for _ in range(5):
        root = np.sqrt(w**2 + width**2)
        slope = curvature @ w - target + level * w / root
        w = w - np.linalg.solve(curvature + level * np.diag(width**2 / root**3), slope)
    return w


@dataclass(frozen=True)
class _Smoothed:
    """Makes ½ mean (Xw - y)² + e^{l1} Σ √(w² + width²) for a namespace."""

    maps: Any
    width: float

    def __call__(self, xp: Any) -> Any:
        return _SmoothedLoss(xp, self.maps, self.width)


@dataclass(frozen=True)
class _SmoothedLoss:
    xp: Any
    maps: Any
    width: float

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        penalty = self.xp.sum(self.maps.smoothed_abs(params["w"], self.width))
        return SquaredError(self.xp)(params, hparams, batch) + self.xp.exp(hparams["l1"]) * penalty

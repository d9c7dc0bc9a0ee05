"""Fixed points, roots and carried optimizer states: closed forms, and the reference off the solution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import Dense, Identity, Neumann
from nestgrad_conformance import problems, tolerances
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems import Case
from nestgrad_conformance.problems.scalar import Distance
from nestgrad_conformance.registry import check


@check("FixedPoint", "Dense")
def dense_equals_closed_form_of_fixed_points(ctx: Context, draw: Draw) -> None:
    """F = w - (Mw + Cλ + c), M not normal: G = Cᵀ(I - M)⁻ᵀ ∂L_out/∂w + ρλ."""
    case = problems.mapped(draw, 4, draw.pick([2, 5], "m"), kind="fixed point")
    ctx.assume_conditioned(case)
    _mapped(ctx, case)


@check("Root", "Dense")
def dense_equals_closed_form_of_roots(ctx: Context, draw: Draw) -> None:
    """F = Aw - Cλ - c, A not symmetric: G = CᵀA⁻ᵀ ∂L_out/∂w + ρλ; the transpose matters."""
    _mapped(ctx, problems.mapped(draw, 4, draw.pick([2, 5], "m"), kind="root"))


def _mapped(ctx: Context, case: Case) -> None:
    found = ctx.hypergradient(case, Dense())
    right = {"shift": problems.mapped_closed_form(case.rounded(ctx.dtype))}
    ctx.close(found.total, right, tolerances.rtol(Dense(), ctx.dtype), what="total", scale=problems.mapped_scale(case))


@check("FixedPoint", "Root", "Dense", "Neumann", "Identity")
def maps_off_their_solution_equal_the_reference(ctx: Context, draw: Draw) -> None:
    """Smooth fixed points and roots at any point: Dense, the series and one term are their formulas."""
    case = problems.mapped(draw, 4, 2, kind=draw.pick(["fixed point", "root"], "kind"), smooth=True)
    ctx.assume_conditioned(case)
    ctx.agree(case, draw.pick([Dense(), Neumann(num_terms=3, step_size=0.5), Identity(scale=0.3)], "solver"))


@check("FixedPoint", "Identity", "Dense")
def one_step_is_exact_where_the_map_is_flat(ctx: Context, draw: Draw) -> None:
    """The Babylonian map has slope 0 in w at √λ, so that one step's derivative is the whole one."""
    case, right = problems.babylonian(draw)
    for solver in (Identity(), Dense()):
        found = ctx.hypergradient(case, solver)
        ctx.close(found.total, right, 1e-4 if ctx.dtype == "float32" else 1e-12, what="total", scale=np.ones(1))


@check("FixedPoint", "Neumann")
def series_on_a_fixed_point_sum_powers_of_the_map(ctx: Context, draw: Draw) -> None:
    """Neumann(k, 1) on F = w - map is Σ_{j<k} (Mᵀ)ʲ v."""
    case = problems.mapped(draw, 4, 2, kind="fixed point")
    k = draw.pick([1, 2, 5], "terms")
    found = ctx.hypergradient(case, Neumann(num_terms=k, step_size=1.0), throw=False)
    point, seen = ctx.materialize(case), case.rounded(ctx.dtype)
    p = sum(np.linalg.matrix_power(seen.inner_batch["M"].T, j) for j in range(k)) @ point.outer_gradient
    ctx.equals_adjoint(case, found, point, p, tolerances.rtol(Neumann(num_terms=k, step_size=1.0), ctx.dtype))


@check("WeightUpdate", "Dense", "Neumann", "sgd")
def carried_states_equal_the_reference(ctx: Context, draw: Draw) -> None:
    """F = s - Φ(s) over weights and momentum buffer together: Dense and the series are their formulas."""
    case = problems.updated_network(draw, per_parameter=draw.pick([True, False], "per parameter"))
    case = case.with_(kind="update with state")
    ctx.assume_conditioned(case)
    ctx.agree(case, draw.pick([Dense(), Neumann(num_terms=4, step_size=1.0), Neumann(num_terms=1, step_size=1.0)], "s"))


@check("WeightUpdate", "Minimize", "Dense", "sgd", dtypes=("float64",))
def carried_states_change_nothing_at_a_solution(ctx: Context, draw: Draw) -> None:
    """At a minimum with an idle buffer the whole system gives the stationarity condition's hypergradient."""
    case = problems.quadratic(draw, 4, 2, condition=5.0)
    case = case.with_(params={"w": problems.quadratic_optimum(case)})
    rates = {"lr": np.asarray(0.3), "momentum": np.asarray(draw.rng.uniform(0.2, 0.8))}
    moved = case.with_(hparams={**case.hparams, **rates}, kind="update with state")
    found = ctx.numpy(ctx.hypergradient(moved, Dense()).total)
    right = problems.quadratic_closed_form(case)
    error = np.linalg.norm(found["shift"] - right)
    bound = 1e-9 * np.linalg.norm(problems.quadratic_scale(case))
    assert error <= bound, f"error {error:.3g}, limit {bound:.3g}"
    assert abs(found["lr"]) <= 1e-10, f"total['lr'] = {found['lr']}, limit 1e-10 at a solution"
    assert abs(found["momentum"]) <= 1e-10, f"total['momentum'] = {found['momentum']}, limit 1e-10 at a solution"


@dataclass(frozen=True)
class Quartic:
    """¼w⁴ - ½λw²."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return 0.25 * params**4 - 0.5 * hparams * params**2


@dataclass(frozen=True)
class Squared:
    """½(w - λ²)²."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return 0.5 * (params - hparams**2) ** 2


@check("Minimize", "Dense")
def dense_equals_closed_forms_with_branches(ctx: Context, draw: Draw) -> None:
    """¼w⁴ - ½λw²: dw/dλ = ±1/(2√λ) on its branches and 0 between; ½(w - λ²)²: 2λ."""
    level, b = np.exp(0.3 * draw.normal()), draw.normal()
    family, sign = draw.pick([(Quartic, 1.0), (Quartic, -1.0), (Quartic, 0.0), (Squared, 1.0)], "family")
    if family is Squared:
        w, slope = level**2, 2.0 * level
    elif sign == 0.0:
        level = -level
        w, slope = np.asarray(0.0), 0.0
    else:
        w, slope = sign * np.sqrt(level), sign / (2.0 * np.sqrt(level))
    case = Case(
        inner_loss=family,
        outer_loss=Distance,
        params=np.asarray(w),
        hparams=np.asarray(level),
        inner_batch=np.asarray(0.0),
        outer_batch=b,
    )
    found = ctx.hypergradient(case, Dense())
    limit = 1e-4 if ctx.dtype == "float32" else 1e-12
    ctx.close(found.total, np.asarray(slope * (w - b)), limit, what="total", scale=10 * np.ones(1))


@dataclass(frozen=True)
class WeightedSquares:
    """½ Σ s_i (x_iᵀw - y_i)²."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return 0.5 * self.xp.sum(hparams["rows"] * (batch[0] @ params["w"] - batch[1]) ** 2)


@dataclass(frozen=True)
class LabelledRidge:
    """½ mean (x_iᵀw - λ_i)² + ½·0.3·|w|², the labels being hyperparameters."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        fit = 0.5 * self.xp.sum((batch[0] @ params["w"] - hparams["rows"]) ** 2) / batch[0].shape[0]
        return fit + 0.15 * self.xp.sum(params["w"] ** 2)


@dataclass(frozen=True)
class FromTarget:
    """½|w - t|²."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return 0.5 * self.xp.sum((params["w"] - batch) ** 2)


@check("Minimize", "Dense")
def dense_equals_closed_forms_of_rows(ctx: Context, draw: Draw) -> None:
    """One weight a row: dw/ds_i = H⁻¹x_i(y_i - x_iᵀw). One label a row: dw/dy_i = H⁻¹x_i / rows."""
    rows, n = 9, 3
    x, y = draw.normal(rows, n), draw.normal(rows)
    family = draw.pick([WeightedSquares, LabelledRidge], "family")
    values = np.exp(0.3 * draw.normal(rows)) if family is WeightedSquares else y
    if family is WeightedSquares:
        curvature = x.T @ (values[:, None] * x)
        w = np.linalg.solve(curvature, x.T @ (values * y))
        response = np.linalg.solve(curvature, x.T * (y - x @ w))
    else:
        curvature = x.T @ x / rows + 0.3 * np.eye(n)
        w = np.linalg.solve(curvature, x.T @ y / rows)
        response = np.linalg.solve(curvature, x.T) / rows
    target = draw.normal(n)
    case = Case(
        inner_loss=family,
        outer_loss=FromTarget,
        params={"w": w},
        hparams={"rows": values},
        inner_batch=(x, y),
        outer_batch=target,
    )
    ctx.assume_conditioned(case, 30.0)
    found = ctx.hypergradient(case, Dense())
    size = np.full(rows, np.linalg.norm(response) * np.linalg.norm(w - target))
    limit = 3e-4 if ctx.dtype == "float32" else 1e-9
    ctx.close(found.total, {"rows": response.T @ (w - target)}, limit, what="total", scale=size)


@dataclass(frozen=True)
class Saddle:
    """The gradient field (σy + λ₁, -σx + λ₂) of a bilinear game: J is skew."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        sigma = batch
        return {"x": sigma * params["y"] + hparams["p"], "y": -sigma * params["x"] + hparams["q"]}


@dataclass(frozen=True)
class SaddleOuter:
    """½(x - 1)² + ½(y + 2)²."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return 0.5 * (params["x"] - 1.0) ** 2 + 0.5 * (params["y"] + 2.0) ** 2


@check("Root", "Dense")
def dense_equals_closed_form_of_a_bilinear_game(ctx: Context, draw: Draw) -> None:
    """y = -λ₁/σ, x = λ₂/σ at the equilibrium of a bilinear game."""
    sigma, p, q = 0.5 + draw.rng.uniform(), draw.normal(), draw.normal()
    x, y = q / sigma, -p / sigma
    case = Case(
        inner_loss=Saddle,
        outer_loss=SaddleOuter,
        params={"x": np.asarray(x), "y": np.asarray(y)},
        hparams={"p": p, "q": q},
        inner_batch=np.asarray(sigma),
        outer_batch=None,
        kind="root",
    )
    found = ctx.hypergradient(case, Dense())
    right = {"p": np.asarray(-(y + 2.0) / sigma), "q": np.asarray((x - 1.0) / sigma)}
    ctx.close(
        found.total, right, 1e-4 if ctx.dtype == "float32" else 1e-12, what="total", scale=np.full(2, 4.0 / sigma)
    )

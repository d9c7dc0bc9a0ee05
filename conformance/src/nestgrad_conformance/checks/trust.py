"""Certificates, verification and the preflight: what they say is so."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import (
    CG,
    Dense,
    DisconnectedHyperparameter,
    Implicit,
    Minimize,
    Neumann,
    WrongDerivative,
    ZeroHypergradient,
    tree,
)
from nestgrad_conformance import problems
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expecting import refused
from nestgrad_conformance.problems import Case
from nestgrad_conformance.problems.quadratic import QuadraticInner, QuadraticOuter
from nestgrad_conformance.registry import check


@check("Minimize", "CG", "Neumann", "Dense")
def certificates_estimate_the_solve_error(ctx: Context, draw: Draw) -> None:
    """solve_error is of the order of the error: within the condition number of it for series, tiny for exact solves."""
    case = problems.quadratic(draw, 4, 2, condition=5.0)
    case = case.with_(params={"w": problems.quadratic_optimum(case)})
    right = problems.quadratic_closed_form(case)
    certificate = ctx.hypergradient(case, Dense()).certificate
    rough = 1e-2 if ctx.dtype == "float32" else 1e-8
    assert certificate.relative_error <= rough, f"{certificate}"
    k = draw.pick([3, 8], "terms")
    found = ctx.hypergradient(case, Neumann(num_terms=k, step_size=1.0))
    error = float(np.linalg.norm(ctx.numpy(found.total)["shift"] - right))
    reach = float(np.linalg.norm(case.inner_batch["C"], 2) * np.linalg.norm(np.linalg.inv(case.inner_batch["H"]), 2))
    bound = reach * float(found.certificate.residual) * float(np.linalg.norm(_slope(case)))
    assert error <= 1.01 * bound + 1e-4, f"error {error:.3g} above |B||r|/σ = {bound:.3g}"
    assert found.certificate.solve_error > 0.0, "a truncated series with no solve error at all"
    assert found.certificate.products == k - 1, f"products {found.certificate.products}, expected {k - 1}"
    assert "relative error" in str(found.certificate), str(found.certificate)


def _slope(case: Case) -> np.ndarray:
    return case.outer_batch["Q"] @ (case.params["w"] - case.outer_batch["t"])


@check("Minimize", "CG")
def certificates_tell_of_params_that_are_no_solution(ctx: Context, draw: Draw) -> None:
    """inner_optimality is |F|, and the inner error grows with the distance from the solution."""
    case = problems.quadratic(draw, 4, 2, condition=5.0)
    optimum = problems.quadratic_optimum(case)
    away = draw.normal(4)
    errors = []
    for distance in (0.001, 0.1):
        moved = case.with_(params={"w": optimum + distance * away})
        certificate = ctx.hypergradient(moved, CG(rtol=1e-5, max_steps=20)).certificate
        size = float(np.linalg.norm(case.inner_batch["H"] @ away) * distance)
        assert abs(certificate.inner_optimality - size) <= 1e-3 * size + 1e-5, f"{certificate}, expected |F| = {size}"
        errors.append(certificate.inner_error)
    assert errors[0] < errors[1], f"inner errors {errors} do not grow with the distance"


@check("verify", "Minimize", "Neumann", "CG", "Dense", slow=True)
def verification_trusts_what_is_right_and_nothing_else(ctx: Context, draw: Draw) -> None:
    """An exact method at the solution is trusted; two terms of a series, or weights far from it, are not."""
    case = problems.quadratic(draw, 4, 2, condition=20.0)
    optimum = problems.quadratic_optimum(case)
    good = case.with_(params={"w": optimum})
    backend: Any = ctx.harness.backend
    solver = draw.pick([Dense(), CG(rtol=1e-5, max_steps=20)], "solver")
    found = backend.verify(*ctx.point(good), method=Implicit(solver=solver), **_given(ctx, good))
    assert found.trusted, str(found)
    assert found.reference == "dense", found.reference
    poor = Implicit(solver=Neumann(num_terms=1, step_size=0.01))
    wrong = backend.verify(*ctx.point(good), method=poor, **_given(ctx, good))
    assert not wrong.trusted, str(wrong)
    assert "Do not trust it" in str(wrong), str(wrong)
    far = case.with_(params={"w": optimum + 3.0 * draw.normal(4)})
    right, there = problems.quadratic_closed_form(good), problems.quadratic_closed_form(far)
    off = float(np.linalg.norm(there - right) / np.linalg.norm(right))
    unsolved = backend.verify(*ctx.point(far), method=Implicit(solver=Dense()), **_given(ctx, far))
    assert abs(unsolved.relative_error - off) <= 0.01 * off + 1e-3, f"{unsolved.relative_error}, expected {off}"
    assert unsolved.trusted == (unsolved.relative_error <= 0.01), str(unsolved)


@check("verify", "Minimize", "Dense", slow=True)
def verification_of_large_problems_differentiates_the_solved_one(ctx: Context, draw: Draw) -> None:
    """Above max_params the reference is central differences of the re-solved inner problem, and it agrees."""
    case = problems.quadratic(draw, 4, 2, condition=3.0)
    case = case.with_(params={"w": problems.quadratic_optimum(case)})
    backend: Any = ctx.harness.backend
    found = backend.verify(
        *ctx.point(case), method=Implicit(solver=Dense()), max_params=1, rtol=0.05, **_given(ctx, case)
    )
    assert found.reference == "central differences", found.reference
    assert found.trusted, str(found)
    poor = Implicit(solver=Neumann(num_terms=1, step_size=0.01))
    wrong = backend.verify(*ctx.point(case), method=poor, max_params=1, rtol=0.05, **_given(ctx, case))
    assert not wrong.trusted, str(wrong)


def _given(ctx: Context, case: Case) -> dict[str, Any]:
    return {name: value for name, value in ctx.call(case).items() if value is not None}


@check("check", "Minimize", "Neumann", "WeightUpdate", "sgd")
def the_preflight_finds_nothing_in_healthy_problems(ctx: Context, draw: Draw) -> None:
    """No finding, no warning and no error where every hyperparameter acts and every derivative is one."""
    family = draw.pick(["network", "logistic", "ridge", "update"], "family")
    if family == "update":
        case = problems.updated_network(draw, per_parameter=draw.pick([True, False], "per parameter"))
    elif family == "ridge":
        case = problems.ridge(draw, 3, shared=False).with_(params={"w": draw.normal(3)})
    else:
        case = problems.tanh_network(draw) if family == "network" else problems.logistic(draw)
    backend: Any = ctx.harness.backend
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = backend.check(*ctx.point(case), **_given(ctx, case))
    assert found == (), f"findings {found} in a healthy problem"


@dataclass(frozen=True)
class Halved:
    """The quadratic loss with λ cut off on one of two paths."""

    xp: Any
    detach: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        mixed = 0.1 * hparams["shift"] + 0.9 * self.detach(hparams["shift"])
        return QuadraticInner(self.xp)(params, {"shift": mixed}, batch)


@check("check", "Minimize", "detach", dtypes=("float64",))  # in float32 differences can drown in rounding
def the_preflight_sees_what_is_cut_off(ctx: Context, draw: Draw) -> None:
    """A hyperparameter with one of two paths cut, and one that nothing uses, are named."""
    case = problems.quadratic(draw, 4, 2)
    case = case.with_(outer_batch={**case.outer_batch, "rho": np.asarray(0.0)})
    backend: Any = ctx.harness.backend
    kind = draw.pick(["cut", "unused"], "kind")
    if kind == "unused":
        case = case.with_(hparams={**case.hparams, "spare": np.asarray(0.5)})
        with refused(DisconnectedHyperparameter, "spare"):
            backend.check(*ctx.point(case), **_given(ctx, case))
        return
    detach = ctx.harness.detach
    problem = case.problem(ctx.harness)
    inner = Minimize(Halved(ctx.harness.xp, detach))
    cut = type(problem)(inner, problem.outer_loss)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = backend.check(cut, *ctx.point(case)[1:], **_given(ctx, case))
    assert [finding.kind for finding in found] == [WrongDerivative], f"findings {found}"
    assert "shift" in found[0].message, found[0].message
    assert any(issubclass(w.category, WrongDerivative) for w in heard), f"warnings {heard}"
    with refused(DisconnectedHyperparameter, "shift"):
        backend.check(cut, *ctx.point(case)[1:], strict=True, **_given(ctx, case))


@dataclass(frozen=True)
class Flat:
    """The quadratic loss with λ² (λ - 1)² … at λ = 0: a derivative of exactly zero."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return QuadraticInner(self.xp)(params, {"shift": hparams["shift"] ** 3}, batch)


@check("check", "Minimize")
def the_preflight_names_a_derivative_of_zero(ctx: Context, draw: Draw) -> None:
    """A derivative of exactly zero where λ does act is a ZeroHypergradient, with the step that shows it."""
    case = problems.quadratic(draw, 4, 2)
    outer = {**case.outer_batch, "rho": np.asarray(0.0)}
    case = case.with_(inner_loss=Flat, outer_loss=QuadraticOuter, hparams={"shift": np.zeros(2)}, outer_batch=outer)
    backend: Any = ctx.harness.backend
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = backend.check(*ctx.point(case), **_given(ctx, case))
    assert [finding.kind for finding in found] == [ZeroHypergradient], f"findings {found}"
    assert "step of" in found[0].message, found[0].message
    assert any(issubclass(w.category, ZeroHypergradient) for w in heard), f"warnings {heard}"


@check("check", "Minimize", "Neumann")
def the_preflight_changes_nothing(ctx: Context, draw: Draw) -> None:
    """Params, hparams and batches are the same bits after it."""
    case = problems.tanh_network(draw)
    problem, params, hparams = ctx.point(case)
    call = _given(ctx, case)
    before = [np.array(leaf) for leaf in tree.leaves(ctx.numpy([params, hparams, *call.values()]))]
    backend: Any = ctx.harness.backend
    backend.check(problem, params, hparams, **call)
    after = tree.leaves(ctx.numpy([params, hparams, *call.values()]))
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True)), "an argument was changed"

"""The numbers and statuses of hypergradients, against closed forms."""

import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nestgrad_jax as ng

_spec = importlib.util.spec_from_file_location("quadratic_problems", pathlib.Path(__file__).with_name("problems.py"))
problems = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(problems)
N = problems.N
N = problems.N
_RNG = problems._RNG
H = problems.H
C = problems.C
Q = problems.Q
RATES = problems.RATES
SYMMETRIC_INDEFINITE = problems.SYMMETRIC_INDEFINITE
times = problems.times
sgd = problems.sgd
logistic_loss = problems.logistic_loss
QUADRATIC = problems.QUADRATIC
MIXED = problems.MIXED
SCALED = problems.SCALED
point = problems.point
solved = problems.solved
close = problems.close
expected_total = problems.expected_total
neumann_sum = problems.neumann_sum


def test_dense_on_a_quadratic_equals_its_closed_form(dtype):
    _, lam, v = point(dtype)[-1]
    found = solved(ng.Dense(), dtype)
    close(found.total["a"], expected_total(np.linalg.solve(H, v), lam), dtype)
    close(found.direct["a"], 0.3 * lam, dtype)
    np.testing.assert_allclose(found.total["a"], found.direct["a"] + found.indirect["a"], rtol=1e-6)
    assert found.status is ng.Status.CONVERGED
    assert found.outer_loss.dtype == dtype


@pytest.mark.usefixtures("x64")
def test_scalar_problem_with_a_known_hypergradient():
    problem = ng.BilevelProblem(
        inner=ng.Minimize(lambda w, lam, batch: 0.5 * (w - 2.0) ** 2 + 0.5 * lam * w**2),
        outer_loss=lambda w, lam, batch: 0.5 * (w - 1.0) ** 2,
    )
    found = ng.hypergradient(problem, jnp.float64(2 / 1.4), 0.4, method=ng.Implicit(solver=ng.Dense(), inner_tol=1e-12))
    assert float(found.total) == pytest.approx(-0.43731778425655993, abs=1e-15)


@pytest.mark.usefixtures("x64")
def test_ridge_with_one_penalty_a_weight_equals_its_closed_form():
    def inner(w, lam, batch):
        features, targets = batch
        return 0.5 * ((times(features, w) - targets) ** 2).mean() + 0.5 * (jnp.exp(lam) * w**2).sum()

    def outer(w, lam, batch):
        return 0.5 * w @ times(batch, w)

    x, y, lam = _RNG.normal(size=(9, N)), _RNG.normal(size=9), np.linspace(-1.0, 0.5, N)
    hessian = x.T @ x / 9 + np.diag(np.exp(lam))
    w = np.linalg.solve(hessian, x.T @ y / 9)
    problem = ng.BilevelProblem(inner=ng.Minimize(inner), outer_loss=outer)
    arguments = [jnp.asarray(z) for z in (w, lam)]
    found = ng.hypergradient(
        problem,
        *arguments,
        method=ng.Implicit(solver=ng.CG(rtol=1e-13, max_steps=20)),
        inner_batch=(jnp.asarray(x), jnp.asarray(y)),
        outer_batch=jnp.asarray(Q),
    )
    close(found.total, -np.exp(lam) * w * np.linalg.solve(hessian, Q @ w), "float64")


@pytest.mark.parametrize("terms", [1, 2, 5])
@pytest.mark.usefixtures("x64")
def test_neumann_is_the_sum_of_exactly_its_terms(terms):
    _, lam, v = point("float64")[-1]
    found = solved(ng.Neumann(num_terms=terms, step_size=0.2), "float64")
    close(found.total["a"], expected_total(neumann_sum(H, v, terms, 0.2), lam), "float64")
    assert (int(found.stats.steps), int(found.stats.products)) == (terms, terms - 1)
    assert found.status is ng.Status.TRUNCATED


def test_neumann_of_many_terms_loops_to_the_same_sum():
    _, lam, v = point("float32")[-1]
    found = solved(ng.Neumann(num_terms=90, step_size=0.2), "float32")
    close(found.total["a"], expected_total(neumann_sum(H, v, 90, 0.2), lam), "float32")
    assert int(found.stats.products) == 89


@pytest.mark.usefixtures("x64")
def test_neumann_on_a_weight_update_takes_the_transpose():
    _, lam, v = point("float64")[-1]
    found = solved(ng.Neumann(num_terms=4, step_size=1.0), "float64", problem=SCALED)
    p = neumann_sum((np.diag(RATES) @ H).T, v, 4, 1.0)
    close(found.total["a"], 0.3 * lam + C.T @ (RATES * p), "float64")


def test_identity_equals_one_neumann_term():
    one = solved(ng.Identity(scale=0.3), "float32")
    other = solved(ng.Neumann(num_terms=1, step_size=0.3), "float32")
    np.testing.assert_array_equal(one.total["a"], other.total["a"])


def test_cg_is_exact_after_as_many_steps_as_weights(dtype):
    _, lam, v = point(dtype)[-1]
    found = solved(ng.CG(rtol=1e-10 if dtype == "float64" else 1e-5, max_steps=N), dtype)
    assert found.status is ng.Status.CONVERGED
    close(found.total["a"], expected_total(np.linalg.solve(H, v), lam), dtype)
    assert int(found.stats.products) == int(found.stats.steps) + 1


def test_cg_without_a_tolerance_is_its_krylov_iterate(dtype):
    _, lam, v = point(dtype)[-1]
    krylov = np.stack([v, H @ v], axis=1)
    found = solved(ng.CG(rtol=0.0, max_steps=2), dtype)
    close(found.total["a"], expected_total(krylov @ np.linalg.solve(krylov.T @ H @ krylov, krylov.T @ v), lam), dtype)
    assert found.status is ng.Status.TRUNCATED


def test_cg_absolute_tolerance_is_in_the_units_of_the_outer_gradient():
    size = np.linalg.norm(point("float32")[-1][-1])
    for factor, status in ((1.1, ng.Status.CONVERGED), (0.01, ng.Status.MAX_STEPS_REACHED)):
        found = solved(ng.CG(rtol=0.0, atol=factor * size, max_steps=1), "float32", throw=False)
        assert found.status is status
        assert int(found.stats.steps) == (0 if factor > 1 else 1)


def test_a_zero_outer_gradient_leaves_the_direct_term():
    params, hparams, inner, outer, _ = point("float32")
    for solver in (ng.CG(rtol=1e-6, max_steps=5), ng.Dense(), ng.Neumann(num_terms=3, step_size=0.1)):
        found = ng.hypergradient(
            QUADRATIC,
            params,
            hparams,
            method=ng.Implicit(solver=solver),
            inner_batch=inner,
            outer_batch={**outer, "t": params["w"]},
        )
        np.testing.assert_array_equal(found.total["a"], found.direct["a"])
        assert found.status.ok


@pytest.mark.parametrize("factor", [1e-20, 1e20])
def test_tiny_and_huge_outer_gradients_scale_the_result(factor):
    params, hparams, inner, outer, (_, _, v) = point("float32")
    found = ng.hypergradient(
        QUADRATIC,
        params,
        {"a": jnp.zeros_like(hparams["a"])},
        method=ng.Implicit(solver=ng.CG(rtol=1e-5, max_steps=2 * N)),
        inner_batch=inner,
        outer_batch={**outer, "Q": outer["Q"] * jnp.float32(factor)},
    )
    np.testing.assert_allclose(np.float64(found.total["a"]) / factor, C.T @ np.linalg.solve(H, v), rtol=1e-4)


@pytest.mark.parametrize(
    ("matrix", "solver", "status", "error"),
    [
        (H, ng.Neumann(num_terms=9, step_size=5.0), ng.Status.DIVERGED, ng.NeumannDivergence),
        (H, ng.Neumann(num_terms=200, step_size=50.0), ng.Status.DIVERGED, ng.NeumannDivergence),
        (H, ng.CG(rtol=1e-12, max_steps=1), ng.Status.MAX_STEPS_REACHED, ng.NotConverged),
        (SYMMETRIC_INDEFINITE, ng.CG(rtol=1e-6, max_steps=9), ng.Status.INDEFINITE, ng.IndefiniteCurvature),
        (np.diag([1.0, 0.0, 0.0, 0.0]), ng.CG(rtol=1e-6, max_steps=9), ng.Status.SINGULAR, ng.SingularJacobian),
        (np.diag([1.0, 1.0, 1.0, 0.0]), ng.Dense(), ng.Status.SINGULAR, ng.SingularJacobian),
        (np.full((N, N), np.nan), ng.Dense(), ng.Status.NONFINITE, ng.NonFinite),
        (np.full((N, N), np.nan), ng.CG(rtol=1e-6, max_steps=9), ng.Status.NONFINITE, ng.NonFinite),
        (np.full((N, N), np.nan), ng.Neumann(num_terms=3, step_size=0.1), ng.Status.NONFINITE, ng.NonFinite),
    ],
)
def test_a_failed_solve_raises_the_error_of_its_status(matrix, solver, status, error):
    assert solved(solver, "float32", matrix=matrix, throw=False).status is status
    with pytest.raises(error, match="Remedy") as caught:
        solved(solver, "float32", matrix=matrix)
    assert caught.value.status is status


def test_cg_refuses_a_jacobian_that_is_not_symmetric(dtype):
    found = solved(ng.CG(rtol=1e-6, max_steps=9), dtype, problem=MIXED, throw=False)
    assert found.status is ng.Status.NOT_SYMMETRIC
    assert np.isnan(found.indirect["a"]).all()
    assert int(found.stats.products) == 3
    with pytest.raises(ng.NotSymmetric, match="symmetry defect"):
        solved(ng.CG(rtol=1e-6, max_steps=9), dtype, problem=MIXED)


@pytest.mark.parametrize("kind", [ng.CG, ng.MINRES])
def test_one_rate_a_weight_is_repaired_exactly(kind, dtype):
    found = solved(kind(rtol=1e-10 if dtype == "float64" else 1e-5, max_steps=2 * N), dtype, problem=SCALED)
    _, lam, v = point(dtype)[-1]
    np.testing.assert_allclose(
        found.total["a"], expected_total(np.linalg.solve(H, v), lam), rtol=1e-9 if dtype == "float64" else 1e-4
    )


def test_params_far_from_the_minimum_are_reported_when_asked_for():
    assert solved(ng.Dense(), "float32", inner_tol=1e3).status is ng.Status.CONVERGED
    with pytest.raises(ng.InnerNotConverged, match=r"inner_tol=0\.001"):
        solved(ng.Dense(), "float32", inner_tol=1e-3)


@pytest.mark.usefixtures("x64")
def test_the_given_optimizer_state_is_held_constant():
    cast = functools.partial(jax.tree.map, lambda x: jnp.asarray(x, "float64"))
    features = _RNG.normal(size=(6, N))
    w, trace, v = np.linspace(-1.0, 2.0, N), np.linspace(0.5, 0.1, N), np.ones(N)
    params, hparams = cast({"w": w}), cast({"lr": 0.3, "m": 0.6, "wd": 0.1})
    problem = ng.BilevelProblem(inner=ng.WeightUpdate(logistic_loss, sgd), outer_loss=lambda p, h, b: p["w"].sum())
    _, (state, scale) = sgd(hparams).init(params)
    state = (optax.EmptyState(), (state._replace(trace=cast({"w": trace})), scale))
    found = ng.hypergradient(
        problem, params, hparams, method=ng.Implicit(solver=ng.Identity()), inner_batch=cast(features), opt_state=state
    )
    slope = -features.T @ (1.0 / (1.0 + np.exp(features @ w))) / 6
    close(found.total["lr"], -v @ (0.6 * trace + slope + 0.1 * w), "float64")
    close(found.total["m"], -v @ (0.3 * trace), "float64")
    close(found.total["wd"], -v @ (0.3 * w), "float64")
    fresh = ng.hypergradient(
        problem, params, hparams, method=ng.Implicit(solver=ng.Identity()), inner_batch=cast(features)
    )
    assert float(fresh.total["m"]) == 0.0

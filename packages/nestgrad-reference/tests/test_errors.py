"""What the reference refuses: by type, with the thing named, the number beside its limit, and a remedy."""

from dataclasses import dataclass

import autograd.numpy as anp
import numpy as np
import pytest

import nestgrad_reference as ng

SERIES = ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=0.1))
PARAMS = {"w": np.array([1.0, -2.0])}
HPARAMS = {"decay": np.asarray(0.5)}


def inner_loss(params, hparams, batch):
    return 0.5 * anp.sum((params["w"] - 1.0) ** 2) + 0.5 * hparams["decay"] * anp.sum(params["w"] ** 2)


def outer_loss(params, hparams, batch):
    return 0.5 * anp.sum(params["w"] ** 2)


def hypergradient(params=PARAMS, hparams=HPARAMS, *, inner=inner_loss, outer=outer_loss, method=SERIES, **rest):
    return ng.hypergradient(ng.BilevelProblem(ng.Minimize(inner), outer), params, hparams, method=method, **rest)


def quadratic(eigenvalues):
    """½wᵀHw - λ Σw with these eigenvalues, and |w|² outside."""

    def loss(params, hparams, batch):
        return anp.sum(0.5 * eigenvalues * params["w"] ** 2) - hparams["decay"] * anp.sum(params["w"])

    return loss


def refused(kind, *words):
    return pytest.raises(kind, match=".*".join([*words, "limit", "Remedy"]))


@pytest.mark.parametrize("value", [np.asarray(1), np.asarray(True), np.asarray(1j)])
def test_hyperparameters_that_are_not_real_floats_are_refused(value):
    with refused(ng.NonDifferentiableHyperparameter, r"hparams\['decay'\]", str(value.dtype)):
        hypergradient(hparams={"decay": value})


def test_integer_params_are_refused():
    with refused(ng.InvalidInput, r"params\['w'\]", "int64"):
        hypergradient({"w": np.arange(2)})


@pytest.mark.parametrize("empty", [{}, {"w": None}, []])
def test_empty_trees_are_refused(empty):
    with refused(ng.InvalidInput, "params: 0 leaves"):
        hypergradient(empty)
    with refused(ng.InvalidInput, "hparams: 0 leaves"):
        hypergradient(hparams=empty)


@pytest.mark.parametrize("where", ["params", "hparams", "inner_batch", "outer_batch"])
def test_a_float32_array_among_float64_is_refused(where):
    given = {
        "params": {**PARAMS, "b": np.ones(2)},
        "hparams": HPARAMS,
        "inner_batch": np.ones(2),
        "outer_batch": np.ones(2),
    }
    given[where] = ng.tree.map(np.float32, {"w": np.ones(2), "b": np.ones(2)} if where == "params" else given[where])
    if where == "params":
        given[where]["w"] = PARAMS["w"]
    with refused(ng.DtypeMismatch, where, "float32"):
        hypergradient(given.pop("params"), given.pop("hparams"), **given)


@pytest.mark.parametrize("level", ["inner", "outer"])
@pytest.mark.parametrize(
    ("loss", "shape"), [(lambda p, h, b: p["w"] * h["decay"], r"\(2,\)"), (lambda p, h, b: 1, r"\(\) of int64")]
)
def test_losses_that_are_not_one_real_number_are_refused(level, loss, shape):
    with refused(ng.NonScalarLoss, level, shape):
        hypergradient(**{level: loss})


def test_a_hyperparameter_that_no_loss_uses_is_refused():
    with refused(ng.DisconnectedHyperparameter, "'spare'", "0 differentiable paths"):
        hypergradient(hparams={**HPARAMS, "spare": np.asarray(1.0)})


def test_a_hyperparameter_in_the_outer_loss_alone_is_not_refused():
    found = hypergradient(
        hparams={**HPARAMS, "weight": np.asarray(2.0)}, outer=lambda p, h, b: h["weight"] * anp.sum(p["w"] ** 2)
    )
    assert found.direct["weight"] == found.total["weight"] == 5.0
    assert found.indirect["weight"] == 0.0


def test_a_bare_solver_in_place_of_a_method_is_refused():
    with refused(ng.UnsupportedSpec, "Neumann"):
        hypergradient(method=ng.Neumann(num_terms=1, step_size=1.0))


def test_a_solver_without_a_rule_is_refused_with_the_rules_there_are():
    @dataclass(frozen=True)
    class Other:
        pass

    assert not ng.supports(Other)
    with pytest.raises(ng.UnsupportedSpec, match=r"Other, limit: BiCGSTAB, CG, Dense.*RandomNeumann.*Remedy"):
        hypergradient(method=ng.Implicit(solver=Other()))


def test_an_optimizer_without_update_is_refused():
    problem = ng.BilevelProblem(ng.WeightUpdate(inner_loss, lambda h: "sgd"), outer_loss)
    with refused(ng.UnsupportedOptimizer, "str"):
        ng.hypergradient(problem, PARAMS, HPARAMS, method=SERIES)


def test_dense_beyond_its_size_is_refused():
    with pytest.raises(ng.InvalidInput, match=r"2 weights, limit max_params=1.*Remedy"):
        hypergradient(method=ng.Implicit(solver=ng.Dense(max_params=1)))


STATUSES = [
    ([0.0, 1.0], ng.Dense(), ng.SingularJacobian, ng.Status.SINGULAR),
    ([-1.0, 1.0], ng.CG(rtol=1e-8, max_steps=9), ng.IndefiniteCurvature, ng.Status.INDEFINITE),
    ([0.0, 0.0], ng.CG(rtol=1e-8, max_steps=9), ng.SingularJacobian, ng.Status.SINGULAR),
    ([1.0, 9.0], ng.CG(rtol=1e-8, max_steps=1), ng.NotConverged, ng.Status.MAX_STEPS_REACHED),
    ([1.0, 9.0], ng.Neumann(num_terms=5, step_size=1.0), ng.NeumannDivergence, ng.Status.DIVERGED),
    ([1.0, np.nan], ng.Dense(), ng.NonFinite, ng.Status.NONFINITE),
    ([1.0, np.nan], ng.CG(rtol=1e-8, max_steps=9), ng.NonFinite, ng.Status.NONFINITE),
    ([1.0, np.inf], ng.Neumann(num_terms=3, step_size=1.0), ng.NonFinite, ng.Status.NONFINITE),
]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(("eigenvalues", "solver", "error", "status"), STATUSES)
def test_a_failed_solve_is_named_with_its_number(eigenvalues, solver, error, status):
    method = ng.Implicit(solver=solver)
    with refused(error, type(solver).__name__) as caught:
        hypergradient(inner=quadratic(np.array(eigenvalues)), method=method)
    assert caught.value.status is status
    assert hypergradient(inner=quadratic(np.array(eigenvalues)), method=method, throw=False).status is status


def test_cg_on_rates_that_no_diagonal_repairs_is_refused_with_the_defect():
    rates = {"lr": {"w": np.array([-0.1, 1.0])}}
    problem = ng.BilevelProblem(
        ng.WeightUpdate(lambda p, h, b: anp.sum(p["w"]) ** 2 + anp.sum(p["w"] ** 2), lambda h: ng.optim.sgd(h["lr"])),
        outer_loss,
    )
    method = ng.Implicit(solver=ng.CG(rtol=1e-8, max_steps=9))
    with refused(ng.NotSymmetric, "symmetry defect"):
        ng.hypergradient(problem, PARAMS, rates, method=method)
    found = ng.hypergradient(problem, PARAMS, rates, method=method, throw=False)
    assert found.status is ng.Status.NOT_SYMMETRIC
    assert np.isnan(found.indirect["lr"]["w"]).all()


def test_params_off_the_solution_are_named_when_asked_for():
    strict = ng.Implicit(solver=ng.Dense(), inner_tol=1e-6)
    with refused(ng.InnerNotConverged, "inner residual norm"):
        hypergradient(method=strict)
    solved = hypergradient({"w": np.ones(2) / 1.5}, method=strict)
    assert solved.status is ng.Status.CONVERGED
    assert solved.stats.inner_optimality < 1e-15

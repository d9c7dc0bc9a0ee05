"""Every failed status has one error, whose message holds the measured number, its limit and a remedy."""

import pytest

import nestgrad
from nestgrad import (
    CG,
    Dense,
    Implicit,
    NestgradError,
    NestgradWarning,
    Neumann,
    SolverError,
    Stats,
    Status,
    error_for,
    symmetry_limit,
)

FAILED = [status for status in Status if not status.ok]
EXPECTED = {
    Status.MAX_STEPS_REACHED: (nestgrad.NotConverged, "residual norm 0.25, limit 0.002, after 7 steps"),
    Status.STAGNATED: (nestgrad.NotConverged, "residual norm 0.25, limit 0.002, after 7 steps"),
    Status.DIVERGED: (nestgrad.NeumannDivergence, "last ratio of terms 1.5, limit 1, after 7 terms"),
    Status.INDEFINITE: (nestgrad.IndefiniteCurvature, "= -0.5, limit 0, at step 7"),
    Status.SINGULAR: (nestgrad.SingularJacobian, "singular value -0.5, limit: above rounding, at step 7"),
    Status.NOT_SYMMETRIC: (nestgrad.NotSymmetric, "symmetry defect 0.125, limit 1e-06"),
    Status.NONFINITE: (nestgrad.NonFinite, "residual norm 0.25, inner residual norm 3, limit: finite"),
    Status.INNER_NOT_CONVERGED: (nestgrad.InnerNotConverged, "inner residual norm 3, limit inner_tol=0.01"),
    Status.BREAKDOWN: (nestgrad.Breakdown, "residual norm 0.25, limit 0.002, after 7 steps"),
    Status.NEAR_KINK: (nestgrad.NearKink, "nearest kink at 1e-09 of its threshold, limit kink_tol"),
}


def _stats(eps=2.0**-52):
    return Stats(
        residual_norm=0.25,
        rhs_norm=2.0,
        steps=7,
        products=8,
        inner_optimality=3.0,
        contraction=1.5,
        curvature=-0.5,
        asymmetry=0.125,
        kink_distance=1e-9,
        eps=eps,
    )


def test_the_table_above_covers_every_failed_status():
    assert EXPECTED.keys() == set(FAILED)


@pytest.mark.parametrize("status", FAILED, ids=lambda status: status.name)
def test_a_failed_status_raises_its_error_with_number_and_limit(status):
    kind, figures = EXPECTED[status]
    spec = Implicit(solver=CG(rtol=1e-3, max_steps=7), inner_tol=0.01)
    stats = _stats()
    error = error_for(status, spec, stats, where="training step 30")
    assert type(error) is kind
    assert str(error).startswith("training step 30: Implicit(solver=CG(")
    assert figures in str(error)
    assert status.meaning in str(error)
    assert "Remedy: " in str(error)
    assert (error.status, error.stats) == (status, stats)


def test_the_larger_of_the_two_tolerances_is_the_limit():
    spec = Implicit(solver=CG(rtol=1e-3, atol=0.1, max_steps=7))
    assert "limit 0.1," in str(error_for(Status.MAX_STEPS_REACHED, spec, _stats()))


def test_the_place_is_left_out_when_there_is_none():
    error = error_for(Status.DIVERGED, Implicit(solver=Neumann(num_terms=7, step_size=1.0)), _stats())
    assert str(error).startswith("Implicit(solver=Neumann(")


@pytest.mark.parametrize("status", [status for status in Status if status.ok], ids=lambda status: status.name)
def test_a_status_that_is_ok_has_no_error(status):
    with pytest.raises(KeyError):
        error_for(status, Dense(), _stats())


@pytest.mark.parametrize("status", Status, ids=lambda status: status.name)
def test_every_status_says_what_it_means(status):
    assert len(status.meaning) > 20


def test_ok_means_that_the_number_is_the_one_defined():
    assert {status for status in Status if status.ok} == {Status.CONVERGED, Status.TRUNCATED, Status.IDLE}


def test_every_error_has_the_one_base():
    kinds = [value for value in vars(nestgrad).values() if isinstance(value, type) and issubclass(value, Exception)]
    warnings = [kind for kind in kinds if issubclass(kind, Warning)]
    assert len(kinds) - len(warnings) >= 22
    assert len(warnings) >= 6
    assert all(issubclass(kind, NestgradError) for kind in kinds if kind not in warnings)
    assert all(issubclass(kind, NestgradWarning) for kind in warnings)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (nestgrad.InvalidInput, ValueError),
        (nestgrad.OutOfSpace, nestgrad.InvalidInput),
        (nestgrad.DtypeMismatch, nestgrad.InvalidInput),
        (nestgrad.DeviceMismatch, nestgrad.InvalidInput),
        (nestgrad.NonScalarLoss, TypeError),
        (nestgrad.NonDifferentiableHyperparameter, TypeError),
        (nestgrad.UnsupportedOptimizer, TypeError),
        (nestgrad.UnsupportedSpec, NotImplementedError),
        (nestgrad.UnknownBackend, LookupError),
        (SolverError, ArithmeticError),
    ],
)
def test_an_error_is_also_the_builtin_that_its_cause_suggests(kind, builtin):
    assert issubclass(kind, builtin)


def test_symmetry_limit_is_far_above_rounding_and_far_below_real_asymmetry():
    for eps in (2.0**-52, 2.0**-23):
        assert 100 * eps < symmetry_limit(eps) < 1e-1 / 10
    assert symmetry_limit(2.0**-52) < symmetry_limit(2.0**-23)

"""Certificates from statistics, verification against a known oracle, the preflight's judgement, the watch on norms."""

import math
import warnings
from dataclasses import dataclass, replace

import pytest

from nestgrad import (
    BilevelProblem,
    DisconnectedHyperparameter,
    ExplodingHypergradient,
    HyperGradient,
    Identity,
    Implicit,
    Minimize,
    Probe,
    Stats,
    Status,
    Unrolled,
    Watch,
    WeightUpdate,
    WrongDerivative,
    ZeroHypergradient,
    examine_probe,
    report_findings,
    verify_with,
)

STATS = Stats(
    residual_norm=0.02,
    rhs_norm=2.0,
    adjoint_norm=4.0,
    indirect_norm=8.0,
    steps=5,
    products=4,
    inner_optimality=0.1,
    params_norm=10.0,
    curvature=0.5,
    eps=2.0**-52,
)


def result(stats=STATS, total=1.0, status=Status.CONVERGED):
    return HyperGradient(total=total, direct=0.0, indirect=total, outer_loss=1.0, status=status, stats=stats)


def test_a_certificate_holds_the_quotients_of_the_statistics():
    found = result().certificate
    assert found.residual == pytest.approx(0.01)
    assert found.relative_inner_optimality == pytest.approx(0.01)
    assert found.solve_error == pytest.approx(0.02 / 0.5 * 8.0 / 4.0)
    assert found.inner_error == pytest.approx(0.1 / (0.5 * 10.0) * 8.0)
    assert found.relative_error == pytest.approx((0.08 + 0.16) / 8.0)
    assert "estimated relative error 0.03" in str(found)


def test_a_certificate_without_curvature_gives_no_estimate_and_says_so():
    found = result(replace(STATS, curvature=math.nan)).certificate
    assert math.isnan(found.relative_error)
    assert "verify() measures" in str(found)


def test_zero_residuals_are_zero_errors_and_not_nan():
    nothing = replace(STATS, residual_norm=0.0, inner_optimality=0.0, adjoint_norm=0.0, indirect_norm=0.0, rhs_norm=0.0)
    found = result(nothing).certificate
    assert found.residual == found.error_estimate == found.relative_error == 0.0


def test_flat_curvature_is_an_infinite_error():
    assert result(replace(STATS, curvature=0.0)).certificate.solve_error == math.inf


@dataclass
class Square:
    """F = w - λ², L_out = ½w², in floats: G = 2λ³ at the solution w = λ²."""

    eps: float = 2.0**-52
    wrong: float = 1.0
    singular: bool = False

    def hypergradient(self, problem, params, hparams, *, method, throw, **call):
        exact = 2.0 * hparams * params
        steps = isinstance(method, Unrolled)
        right = isinstance(method, Implicit) and not isinstance(method.solver, Identity)
        total = exact if right else self.wrong * exact
        loss = 0.5 * (hparams**2 if steps else params) ** 2
        stats = replace(STATS, inner_optimality=abs(params - hparams**2))
        return replace(result(stats), total=2.0 * hparams**3 * self.wrong if steps else total, outer_loss=loss)

    def newton_step(self, inner, params, hparams, *, solver, **call):
        size = abs(params - hparams**2)
        return (params if self.singular else hparams**2), (math.nan if self.singular else size)

    def normal_like(self, values, seed):
        return 1.0 + seed

    def size(self, params):
        return 1

    def dot(self, a, b):
        return a * b


PROBLEM = BilevelProblem(Minimize(print), print)
METHOD = Implicit(solver=Identity())


def verification(ops, params=4.0, hparams=2.0, *, method=METHOD, max_params=10, problem=PROBLEM):
    return verify_with(
        ops, problem, params, hparams, method=method, call={}, rtol=0.01, max_params=max_params, directions=2
    )


@pytest.mark.parametrize("max_params", [10, 0])
def test_a_right_number_at_the_solution_is_trusted(max_params):
    found = verification(Square(), max_params=max_params)
    assert found.trusted, str(found)
    assert found.reference == ("dense" if max_params else "central differences")
    assert str(found).startswith("Trust it: relative error")


@pytest.mark.parametrize(("max_params", "error"), [(10, 0.5), (0, 0.5 / 1.5)])
def test_a_wrong_number_is_not_trusted(max_params, error):
    found = verification(Square(wrong=1.5), max_params=max_params)
    assert not found.trusted
    assert found.relative_error == pytest.approx(error, rel=1e-4)
    assert "Remedy: a more exact solver" in str(found)


def test_a_right_formula_far_from_the_solution_is_not_trusted_and_the_remedy_is_to_train():
    found = verification(Square(), params=5.0)
    assert not found.trusted
    assert found.relative_error == pytest.approx(0.25)
    assert "Remedy: train params further" in str(found)


def test_an_inner_problem_that_newton_steps_do_not_solve_is_not_trusted():
    found = verification(Square(singular=True))
    assert not found.trusted


def test_an_unrolled_derivative_is_compared_with_differences_of_the_run():
    update = BilevelProblem(WeightUpdate(print, print), print)
    found = verification(Square(), method=Unrolled(num_steps=2), problem=update)
    assert found.reference == "central differences"
    assert found.trusted, str(found)
    assert not verification(Square(wrong=1.1), method=Unrolled(num_steps=2), problem=update).trusted


def test_a_weight_update_is_compared_with_the_exact_solve_at_the_same_point():
    update = BilevelProblem(WeightUpdate(print, print), print)
    found = verification(Square(), problem=update, params=5.0)
    assert found.reference == "dense"
    assert math.isnan(found.refined)
    assert found.trusted
    assert verification(Square(), problem=update, max_params=0).reference == "gmres"


def probe(value, slope, size=1.0, noise=2.0**-52):
    return Probe(name="lr", value=value, slope=slope, size=size, noise=noise)


def test_a_right_derivative_is_no_finding():
    assert examine_probe(probe(lambda s: 3.0 + 2.0 * s + s**2, 2.0), ()) is None


def test_a_derivative_that_differences_contradict_is_named():
    found = examine_probe(probe(lambda s: 3.0 + 2.0 * s + s**2, 0.5), ())
    assert found.kind is WrongDerivative
    assert "derivative 0.5" in found.message
    assert "difference 2" in found.message


def test_differences_that_contradict_each_other_prove_nothing():
    assert examine_probe(probe(lambda s: math.sin(1e6 * s), 0.5), ()) is None
    assert examine_probe(probe(lambda s: 1e20 + s, 0.5), ()) is None


@pytest.mark.parametrize("step", [1e-4, 0.01, 0.5, 5.0])
def test_a_zero_derivative_of_something_that_acts_is_named_with_the_step(step):
    found = examine_probe(probe(lambda s: 1.0 + (s >= step), 0.0, size=0.0), ())
    assert found.kind is ZeroHypergradient
    assert f"step of {step:g} changes" in found.message


def test_what_has_no_effect_is_named_unless_it_is_declared():
    found = examine_probe(probe(lambda s: 1.0, 0.0, size=0.0), ())
    assert found.kind is ZeroHypergradient
    assert "allow_no_effect" in found.message
    assert examine_probe(probe(lambda s: 1.0, 0.0, size=0.0), ("lr",)) is None


def test_findings_are_warnings_and_in_strict_mode_an_error():
    found = examine_probe(probe(lambda s: 1.0, 0.0, size=0.0), ())
    with pytest.warns(ZeroHypergradient, match="lr: derivative exactly 0"):
        assert report_findings([found], strict=False) == (found,)
    with pytest.raises(DisconnectedHyperparameter, match="lr: derivative exactly 0"):
        report_findings([found], strict=True)
    assert report_findings([], strict=True) == ()


def test_the_watch_speaks_of_a_norm_a_thousand_times_the_median_and_of_no_other():
    watch = Watch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(10):
            watch.see(1.0 + step, step=step)
        watch.see(900.0, step=10)
    with pytest.warns(ExplodingHypergradient, match=r"training step 11: hypergradient norm 1e\+04, limit 6e\+03"):
        watch.see(1e4, step=11)


def test_the_watch_waits_until_it_has_seen_some():
    watch = Watch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for norm in (0.0, 1e-9, 1e9, math.nan):
            watch.see(norm, step=1)

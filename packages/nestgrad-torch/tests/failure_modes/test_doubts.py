"""Known ways to be in doubt: warnings, and what is let pass."""

import importlib.util
import pathlib
import re
import warnings
from functools import partial

import pytest

import nestgrad_torch as ng

_spec = importlib.util.spec_from_file_location("failing_problems", pathlib.Path(__file__).with_name("problems.py"))
problems = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(problems)
W = problems.W
loss = problems.loss
run = problems.run
no_path = problems.no_path
rounded = problems.rounded
clamped = problems.clamped
exploding = problems.exploding
loss_of_weights = problems.loss_of_weights
broadcast = problems.broadcast


WARNINGS = [
    (
        "F04",
        partial(run, rounded, outer=no_path, function=ng.check),
        ng.ZeroHypergradient,
        "decay: derivative exactly 0",
    ),
    ("F04", partial(run, rounded, outer=no_path), ng.ZeroHypergradient, r"hparams\['decay'\]: hypergradient exactly 0"),
    ("F05", partial(run, clamped, outer=no_path, function=ng.check), ng.ZeroHypergradient, "relative step of 5"),
    (
        "F17",
        partial(run, params={"w": W, "spare": W + 1}, function=ng.check),
        ng.NestgradWarning,
        r"params\['spare'\]: 0",
    ),
    ("F27", exploding, ng.ExplodingHypergradient, "training step 7: hypergradient norm"),
    ("F34", partial(run, broadcast, function=ng.check), ng.SuspectBroadcast, r"\(7, 1\) and \(7,\)"),
]


@pytest.mark.parametrize(
    ("mode", "call", "kind", "words"), WARNINGS, ids=[f"{i}-{row[0]}" for i, row in enumerate(WARNINGS)]
)
def test_a_doubt_is_a_warning_with_a_name_a_number_and_a_remedy(mode, call, kind, words):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        call()
    messages = [str(w.message) for w in heard if issubclass(w.category, kind)]
    assert any(re.search(words, message) for message in messages), messages
    assert all("limit" in message and "Remedy: " in message for message in messages)


def test_f06_what_may_have_no_effect_is_let_pass():
    def inner(params, hparams, batch):
        return loss(params, hparams, batch) + 0.0 * hparams["spare"] * params["w"].sum()

    allowed = {"hparams": {"decay": 0.3, "spare": 0.5}, "allow_no_effect": ("spare",)}
    assert run(inner, function=ng.check, **allowed) == ()


def test_f13_adam_is_differentiated_where_no_gradient_has_ever_been():
    def sparse(params, hparams, batch):
        return (params["w"][:2] ** 2).sum()

    update = ng.WeightUpdate(sparse, lambda h: ng.optim.adam(h["decay"]), carry="weights_and_state")
    method = ng.Unrolled(num_steps=3)
    found = run(update, method=method)
    assert bool(found.total["decay"].isfinite())
    assert bool(found.adjoint["w"].isfinite().all())
    single = run(update, method=ng.Implicit(solver=ng.Neumann(num_terms=2, step_size=0.5)), throw=False)
    assert bool(single.total["decay"].isfinite())


@pytest.mark.parametrize("size", [1e-20, 1e-13, 1e20])
@pytest.mark.parametrize(
    "solver", [ng.CG, ng.MINRES, ng.NormalCG, ng.LSMR, ng.GMRES, ng.BiCGSTAB], ids=lambda s: s.__name__
)
def test_f30_the_size_of_the_outer_loss_is_irrelevant(solver, size):
    method = ng.Implicit(solver=solver(rtol=1e-10, max_steps=60))
    plain = run(outer=loss_of_weights, method=method)
    scaled = run(outer=lambda p, h, b: size * loss_of_weights(p, h, b), method=method)
    assert float(scaled.total["decay"]) == pytest.approx(size * float(plain.total["decay"]), rel=1e-9)


@pytest.mark.parametrize(
    "solver", [ng.CG, ng.MINRES, ng.NormalCG, ng.LSMR, ng.GMRES, ng.BiCGSTAB], ids=lambda s: s.__name__
)
def test_a_zero_outer_gradient_gives_exactly_zero(solver):
    for given in ({}, {"warm_start": {"w": W}}):
        found = run(
            outer=lambda p, h, b: 0.0 * p["w"].sum(), method=ng.Implicit(solver=solver(rtol=1e-9, max_steps=9)), **given
        )
        assert float(found.total["decay"]) == 0.0
        assert found.status is ng.Status.CONVERGED

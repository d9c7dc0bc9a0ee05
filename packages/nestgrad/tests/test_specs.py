"""Specs are plain values: checked when made, hashable, comparable, printable, immutable."""

import dataclasses
import math

import pytest

from nestgrad import (
    CG,
    BilevelProblem,
    Dense,
    Identity,
    Implicit,
    InvalidInput,
    Log10,
    Minimize,
    NestgradError,
    Neumann,
    RandomNeumann,
    UnsupportedSpec,
    WeightUpdate,
    check_one_pass,
)

GOOD = [
    Dense(),
    Dense(max_params=1),
    CG(rtol=1e-6, max_steps=10),
    CG(rtol=0.0, max_steps=1),
    Neumann(num_terms=1, step_size=1.0),
    Identity(),
    Identity(scale=0.1),
    Implicit(solver=Neumann(num_terms=5, step_size=1)),
    Implicit(solver=Dense(), inner_tol=1e-6),
]
BAD = [
    (lambda: Dense(max_params=0), r"Dense\.max_params: got 0, limit: an int of at least 1"),
    (lambda: Dense(max_params=True), r"Dense\.max_params: got True"),
    (lambda: Dense(max_params=2.0), r"Dense\.max_params: got 2\.0"),
    (lambda: CG(rtol=-1e-6, max_steps=10), r"CG\.rtol: got -1e-06, limit: a finite number of at least 0"),
    (lambda: CG(rtol=math.nan, max_steps=10), r"CG\.rtol: got nan"),
    (lambda: CG(rtol=1e-6, atol=math.inf, max_steps=10), r"CG\.atol: got inf"),
    (lambda: CG(rtol=1e-6, max_steps=0), r"CG\.max_steps: got 0, limit: an int of at least 1"),
    (lambda: CG(rtol="1e-6", max_steps=1), r"CG\.rtol: got '1e-6'"),
    (lambda: Neumann(num_terms=0, step_size=1.0), r"Neumann\.num_terms: got 0, limit: an int of at least 1"),
    (lambda: Neumann(num_terms=-3, step_size=1.0), r"Neumann\.num_terms: got -3"),
    (lambda: Neumann(num_terms=3, step_size=0.0), r"Neumann\.step_size: got 0\.0, limit: a finite number above 0"),
    (lambda: Neumann(num_terms=3, step_size=-1.0), r"Neumann\.step_size: got -1\.0"),
    (lambda: Neumann(num_terms=3, step_size=True), r"Neumann\.step_size: got True"),
    (lambda: Identity(scale=0), r"Identity\.scale: got 0, limit: a finite number above 0"),
    (lambda: Implicit(solver=Dense), r"Implicit\.solver: got <class .*Dense'>, limit: one solver spec"),
    (lambda: Implicit(solver="cg"), r"Implicit\.solver: got 'cg', limit: one solver spec"),
    (lambda: Implicit(solver=Dense(), inner_tol=0.0), r"Implicit\.inner_tol: got 0\.0"),
]
WITHOUT_DEFAULTS = [
    lambda: CG(rtol=1e-6),
    lambda: CG(max_steps=5),
    lambda: Neumann(num_terms=5),
    lambda: Neumann(step_size=1.0),
    Implicit,
]


@pytest.mark.parametrize("spec", GOOD, ids=repr)
def test_a_spec_is_hashable_comparable_and_prints_as_its_own_constructor(spec):
    copy = dataclasses.replace(spec)
    assert copy == spec
    assert hash(copy) == hash(spec)
    assert eval(repr(spec)) == spec  # noqa: S307  (the repr is made here, of our own values)


@pytest.mark.parametrize("spec", GOOD, ids=repr)
def test_a_spec_cannot_be_changed(spec):
    field = dataclasses.fields(spec)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec, field, None)


@pytest.mark.parametrize(("make", "message"), BAD)
def test_a_wrong_field_is_refused_by_name_with_its_value_and_limit(make, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        make()
    assert "Remedy:" in str(caught.value)
    assert isinstance(caught.value, NestgradError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("make", WITHOUT_DEFAULTS)
def test_numbers_that_depend_on_the_problems_scale_have_no_default(make):
    with pytest.raises(TypeError, match=r"missing .* required keyword-only argument"):
        make()


def test_specs_take_keywords_only():
    with pytest.raises(TypeError, match="positional"):
        Neumann(5, 1.0)


def test_cg_is_truncated_exactly_when_no_tolerance_is_set():
    assert CG(rtol=0.0, max_steps=3).truncated
    assert not CG(rtol=1e-9, max_steps=3).truncated
    assert not CG(rtol=0.0, atol=1e-9, max_steps=3).truncated


def _loss(params, hparams, batch):
    return 0.0


UPDATE = BilevelProblem(inner=WeightUpdate(_loss, optimizer=lambda h: None), outer_loss=_loss)
NEUMANN = Implicit(solver=Neumann(num_terms=5, step_size=1.0))


def test_one_pass_returns_the_weight_update_it_differentiates():
    assert check_one_pass(UPDATE, {"lr": Log10(1e-3)}, 10, NEUMANN) is UPDATE.inner


@pytest.mark.parametrize(
    ("problem", "hparams", "every", "method", "kind", "message"),
    [
        (
            BilevelProblem(Minimize(_loss), _loss),
            {"lr": Log10(1.0)},
            10,
            NEUMANN,
            UnsupportedSpec,
            "inner problem Minimize",
        ),
        (
            UPDATE,
            {"lr": Log10(1.0)},
            10,
            Neumann(num_terms=1, step_size=1.0),
            UnsupportedSpec,
            r"method: got Neumann\(",
        ),
        (
            BilevelProblem(WeightUpdate(_loss, lambda h: None, "weights_and_state"), _loss),
            {"lr": Log10(1.0)},
            10,
            Implicit(solver=CG(rtol=0.1, max_steps=5)),
            UnsupportedSpec,
            "limit: a symmetric J",
        ),
        (
            UPDATE,
            {"lr": Log10(1.0)},
            10,
            Implicit(solver=RandomNeumann(num_terms=3, step_size=1.0)),
            UnsupportedSpec,
            "RandomNeumann draws at random, limit",
        ),
        (UPDATE, {"lr": Log10(1.0)}, 0, NEUMANN, InvalidInput, "every: got 0, limit: an int of at least 1"),
        (UPDATE, {"lr": Log10(1.0)}, True, NEUMANN, InvalidInput, "every: got True"),
        (UPDATE, {"lr": Log10(1.0)}, 2.5, NEUMANN, InvalidInput, r"every: got 2\.5"),
        (UPDATE, {"lr": 1e-3}, 10, NEUMANN, InvalidInput, r"hparams\['lr'\]: got 0\.001, limit: a space"),
        (UPDATE, 1e-3, 10, NEUMANN, InvalidInput, "hparams: got float, limit: a tree of spaces"),
        (UPDATE, {}, 10, NEUMANN, InvalidInput, "0 hyperparameters, limit: at least 1"),
    ],
)
def test_one_pass_refuses_what_it_cannot_tune(problem, hparams, every, method, kind, message):
    with pytest.raises(kind, match=message) as caught:
        check_one_pass(problem, hparams, every, method)
    assert "Remedy:" in str(caught.value)

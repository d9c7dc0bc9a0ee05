"""A one-pass run that meets a NaN, a diverging series or a singular solve."""

import copy
import importlib.util
import pathlib

import pytest
import torch

import nestgrad_torch as ng

_spec = importlib.util.spec_from_file_location("one_pass_runs", pathlib.Path(__file__).with_name("runs.py"))
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)
batch = runs.batch
linear_error = runs.linear_error
run = runs.run
same = runs.same
sgd = runs.sgd
tuner = runs.tuner


def nan_on_huge_inputs(params, hparams, data):
    return linear_error(params, hparams, data) * torch.where(data[0].abs().max() > 1e3, torch.nan, 1.0)


@pytest.mark.parametrize("which", ["inner", "outer"])
def test_a_nan_raises_with_the_step_and_leaves_the_state(which):
    tune = tuner(nan_on_huge_inputs, every=3)
    state, _ = run(tune, tune.init({"w": torch.randn(3, 1, dtype=torch.float64)}), 2)
    kept = copy.deepcopy(state)
    bad = (1e6 * torch.ones(9, 3, dtype=torch.float64), torch.ones(9, 1, dtype=torch.float64))
    batches = (bad, batch()) if which == "inner" else (batch(), bad)
    with pytest.raises(ng.NonFinite, match=r"training step 3: .*limit: finite.*Remedy"):
        tune.step(state, *batches)
    assert same(state, kept)
    after, info = tune.step(state, batch(), batch())
    assert info.hypergradient.status.ok
    assert after["step"] == 3


def test_a_nan_is_recorded_where_it_does_not_raise():
    tune = tuner(nan_on_huge_inputs, every=1, throw=False)
    bad = (1e6 * torch.ones(9, 3, dtype=torch.float64), torch.ones(9, 1, dtype=torch.float64))
    state, info = tune.step(tune.init({"w": torch.zeros(3, 1, dtype=torch.float64)}), batch(), bad)
    assert info.hypergradient.status is ng.Status.NONFINITE
    assert state["step"] == 1
    assert info.tuned


def test_a_series_that_diverges_raises_where_it_overflows_only():
    start = {"w": torch.ones(3, 1)}
    data = (torch.randn(9, 3), torch.ones(9, 1))

    def step(rate, throw=True):
        tune = tuner(
            linear_error,
            every=1,
            terms=9,
            optimizer=lambda h: ng.optim.sgd(h["lr"]),
            hparams={"lr": ng.Log10(rate)},
            throw=throw,
        )
        return tune.step(tune.init(start), data, data)[1].hypergradient

    assert step(10.0).status is ng.Status.DIVERGED
    assert step(10.0).total["lr"].isfinite()
    assert not step(1e6, throw=False).total["lr"].isfinite()
    with pytest.raises(ng.NeumannDivergence, match="training step 1"):
        step(1e6)


def test_a_singular_solve_raises_where_no_hypergradient_is_left():
    def flat(params, hparams, data):
        return linear_error(params, hparams, data) + 0.0 * params["idle"].sum()

    tune = tuner(
        flat, every=1, optimizer=lambda h: ng.optim.sgd(h["lr"]), hparams={"lr": ng.Log10(0.1)}, solver=ng.Dense()
    )
    state = tune.init({"w": torch.zeros(3, 1, dtype=torch.float64), "idle": torch.ones(2, dtype=torch.float64)})
    with pytest.raises(ng.SingularJacobian, match="training step 1"):
        run(tune, state, 1)

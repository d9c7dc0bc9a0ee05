"""The outer optimizer of a one-pass run is carried as one that persists."""

import importlib.util
import pathlib
from functools import partial

import pytest
import torch

from nestgrad_torch.tuners._outer_step import formula

_spec = importlib.util.spec_from_file_location("one_pass_runs", pathlib.Path(__file__).with_name("runs.py"))
runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runs)
ADAM = runs.ADAM
linear_error = runs.linear_error
run = runs.run
same = runs.same
tuner = runs.tuner


OUTER = {
    "Adam": ADAM,
    "AdamW": partial(torch.optim.AdamW, lr=0.05, amsgrad=True),
    "NAdam": partial(torch.optim.NAdam, lr=0.05),
    "RAdam": partial(torch.optim.RAdam, lr=0.05),
    "Adamax": partial(torch.optim.Adamax, lr=0.05),
    "Adagrad": partial(torch.optim.Adagrad, lr=0.05, initial_accumulator_value=0.1),
    "Adadelta": partial(torch.optim.Adadelta, lr=1.0),
    "Adafactor": partial(torch.optim.Adafactor, lr=0.05),
    "ASGD": partial(torch.optim.ASGD, lr=0.05, t0=1),
    "RMSprop": partial(torch.optim.RMSprop, lr=0.05, momentum=0.5, centered=True),
    "Rprop": partial(torch.optim.Rprop, lr=0.05),
    "SGD": partial(torch.optim.SGD, lr=0.05),
    "momentum": partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("outer_optimizer", OUTER.values(), ids=OUTER)
def test_the_outer_optimizer_is_carried_as_one_that_persists(outer_optimizer):
    tune = tuner(linear_error, outer_optimizer=outer_optimizer)
    state = tune.init({"w": torch.randn(3, 1, dtype=torch.float64)})
    persistent = {name: leaf.clone() for name, leaf in state["hparams"].items()}
    optimizer = outer_optimizer(list(persistent.values()))
    for _ in range(6):
        state, infos = run(tune, state, 2)
        for name, leaf in persistent.items():
            leaf.grad = infos[-1].hypergradient.total[name].clone()
        optimizer.step()
        assert same(state["hparams"], persistent)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", [{}, {"lr": 0.05}, {"lr": 1, "betas": (0.5, 0.99), "eps": 1e-3}], ids=str)
def test_a_step_of_adam_without_an_optimizer_has_its_bits(settings, dtype):
    leaves = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in ((3, 5), ())]
    optimizer, step = torch.optim.Adam(leaves, **settings), formula(partial(torch.optim.Adam, **settings))
    moved = [leaf.detach().clone() for leaf in leaves]
    kept = [step.start(leaf) for leaf in moved]
    for exponent in range(50):
        for leaf in leaves:
            leaf.grad = 10.0 ** (exponent % 7 - 3) * torch.randn(leaf.shape, dtype=dtype)
        optimizer.step()
        moved, kept = step.read(moved, [leaf.grad for leaf in leaves], kept)
        for leaf, here, entry in zip(leaves, moved, kept, strict=True):
            there = optimizer.state[leaf]
            assert torch.equal(here, leaf)
            assert there.keys() == entry.keys()
            assert all(torch.equal(there[name], entry[name]) for name in entry)
            assert all(there[name].dtype is entry[name].dtype for name in entry)

"""What the tests of one-pass tuning share: networks, batches, a tuner, a run."""

from functools import partial

import torch
from torch import nn

import nestgrad_torch as ng

NEVER = 10**9
ADAM = partial(torch.optim.Adam, lr=0.05)


def network(*middle):
    return nn.Sequential(nn.Linear(3, 4), *middle, nn.Tanh(), nn.Linear(4, 1)).double()


def noisy_network():
    return network(nn.BatchNorm1d(4), nn.Dropout(0.3))


def batch(rows=9, dtype=torch.float64):
    return torch.randn(rows, 3, dtype=dtype), torch.randn(rows, 1, dtype=dtype)


def error(params, hparams, data):
    return ((params(data[0]) - data[1]) ** 2).mean()


def linear_error(params, hparams, data):
    return ((data[0] @ params["w"] - data[1]) ** 2).mean()


def sgd(hparams):
    return ng.optim.sgd(hparams["lr"], momentum=hparams["momentum"], weight_decay=hparams["decay"])


def spaces():
    return {"lr": ng.Log10(0.05), "momentum": ng.Logit(0.6), "decay": ng.Log10(1e-3)}


def tuner(
    loss=error,
    every=2,
    optimizer=sgd,
    hparams=None,
    terms=3,
    outer_loss=None,
    outer_optimizer=ADAM,
    solver=None,
    **more,
):
    solver = solver or ng.Neumann(num_terms=terms, step_size=1.0)
    return ng.OnePass(
        ng.BilevelProblem(inner=ng.WeightUpdate(loss, optimizer), outer_loss=outer_loss or loss),
        hparams=hparams or spaces(),
        every=every,
        method=ng.Implicit(solver=solver),
        outer_optimizer=outer_optimizer,
        **more,
    )


def run(tune, state, steps, seed=3):
    """The state after some steps on batches drawn from the seed, and each step's info."""
    torch.manual_seed(seed)
    infos = []
    for _ in range(steps):
        state, info = tune.step(state, batch(), batch())
        infos.append(info)
    return state, infos


def leaves(values):
    return ng.tree.leaves({"": values})


def same(left, right):
    """Whether two trees hold the same bits."""
    pairs = list(zip(leaves(left), leaves(right), strict=True))
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)

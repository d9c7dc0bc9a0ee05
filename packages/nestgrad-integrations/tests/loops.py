"""A small training loop in torch, for the tests to tune."""

import torch
from torch import nn

from nestgrad import Log10, Logit
from nestgrad_integrations.live import LiveOnePass

SPACES = {"lr": Log10(1e-2), "momentum": Logit(0.5), "weight_decay": Log10(1e-3)}


def network(dtype=torch.float64, *, noisy=False):
    """Two layers; noisy: with batch norm and dropout."""
    between = [nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2)] if noisy else [nn.Tanh()]
    return nn.Sequential(nn.Linear(3, 5), *between, nn.Linear(5, 1)).to(dtype)


def loss(model, hparams, batch):
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def batches(count, dtype=torch.float64):
    """A list of batches of 8 rows."""
    x = torch.randn(count, 8, 3, dtype=dtype)
    return list(zip(x, torch.sin(x.sum(2, keepdim=True)), strict=True))


def sgd(model, **settings):
    return torch.optim.SGD(model.parameters(), **{"lr": 1e-2, "momentum": 0.5, "weight_decay": 1e-3, **settings})


def tuner(model, optimizer, **options):
    return LiveOnePass(model, optimizer, **{"hparams": SPACES, "inner_loss": loss, "every": 5, **options})


def step(model, optimizer, live, batch, outer, *, clip=None, clip_late=False):
    """One step of the loop, with the tuner's two calls; clip: max_norm, clipped before before_step or after it."""
    optimizer.zero_grad()
    loss(model, None, batch).backward()
    if clip is not None and not clip_late:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    live.before_step(batch)
    if clip is not None and clip_late:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return live.after_step(outer)

"""Torch's side of gaussian-process."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nestgrad_torch as ng
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.studies import torch_linear as linear
from nestgrad_lab.studies.gaussian_process_settings import Settings
from nestgrad_lab.studies.study import Arrays, Context


def optimised(settings: Settings, context: Context, at: Array) -> Arrays:
    """Validation losses of weights trained for each of these λ, all at once; and of the closed form's weights."""
    one = settings
    start, train, valid = _begun(one, context)
    decays = torch.tensor(np.exp(at), dtype=torch.float32, device=train[0].device)

    def loss(weights: linear.Weights, batch: linear.Batch) -> Tensor:
        return torch.vmap(lambda w, decay: _inner_loss(w, {"decay": decay}, batch))(weights, decays).sum()

    weights = linear.trained(
        loss,
        {name: value.expand(len(at), *value.shape) for name, value in start.items()},
        lambda step: linear.cut(train, one.batch, step),
        rate=one.rate,
        steps=one.steps,
        tick=_ticks(context, one.steps),
    )
    return {"loss": _losses(weights, valid), "exact": _losses(_closed_form(train, decays), valid)}


def learned(settings: Settings, context: Context, at: Array, *, fresh: bool) -> Arrays:
    """Validation losses of the weights that a response, trained on fresh λ or on the seen ones in turn, has for all."""
    one = settings
    start, train, valid = _begun(one, context)
    tuner = ng.HyperTraining(
        ng.BilevelProblem(ng.Minimize(_inner_loss), linear.squared_error),
        hparams={"decay": ng.Log(torch.ones(at.shape[1], device=train[0].device))},
        response=ng.MLPResponse(one.hidden) if one.hidden else ng.LinearResponse(),
        optimizer=ng.optim.adam(one.response_rate),
        outer_optimizer=functools.partial(torch.optim.SGD, lr=0.0),
        distribution=ng.Uniform(low=one.low, high=one.high),
        samples=one.samples,
        response_steps=one.response_steps,
    )
    state: Any = tuner.init(start, key=context.seed)
    known = torch.tensor((at[: one.points] - one.low) / (one.high - one.low), dtype=torch.float32)
    ticks = _ticks(context, one.response_steps)
    for step in range(one.response_steps):
        own = (step * one.samples + torch.arange(one.samples)) % one.points
        batch = linear.cut(train, one.batch, step)
        state, _ = tuner.step(state, batch, valid, noise=None if fresh else known[own])
        ticks(step)
    points = torch.tensor(at, dtype=torch.float32, device=train[0].device)
    weights = [ng.respond(tuner.response, state["params"], {"decay": point}) for point in points]
    return {"predicted": np.concatenate([_losses({k: v[None] for k, v in own.items()}, valid) for own in weights])}


def _begun(one: Settings, context: Context) -> tuple[linear.Weights, linear.Batch, linear.Batch]:
    data, (train, valid, _) = linear.load_rows(one.data, context.device, one.train_rows, one.valid_rows)
    sizes = (data.train.x.shape[1], data.outputs)
    return linear.initial_weights(sizes, one.init_scale, context.seed, context.device), train, valid


def _inner_loss(w: Any, h: Any, batch: linear.Batch) -> Tensor:
    """Squared error + Σ e^λ_c ‖w_c‖², w_c the weights and the bias of class c."""
    norms = w["w1"].square().sum(0) + w["b1"].square()
    return linear.squared_error(w, h, batch) + (h["decay"] * norms).sum()


@torch.no_grad()
def _losses(weights: linear.Weights, valid: linear.Batch) -> Array:
    """Of stacked weights."""
    each = [
        linear.squared_error({name: value[k] for name, value in weights.items()}, None, valid)
        for k in range(len(weights["b1"]))
    ]
    return torch.stack(each).cpu().numpy().astype(np.float64)


def _closed_form(train: linear.Batch, decays: Tensor) -> linear.Weights:
    """Ridge regression of each class with its own decay, (λ, ...) each, by one spectral decomposition, in float64."""
    x, y = (part.double() for part in train)
    rows = torch.cat([x, x.new_ones(len(x), 1)], 1)
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(x))
    turned = vectors.T @ (rows.T @ y) / len(x)
    shrunk = turned / (values[:, None] + decays.double()[:, None, :])
    both = (vectors @ shrunk).float()
    return {"w1": both[:, :-1], "b1": both[:, -1]}


def _ticks(context: Context, steps: int) -> Any:
    every = max(1, steps // 100)
    return lambda step: context.tick((step + 1) / steps) if step % every == 0 else None

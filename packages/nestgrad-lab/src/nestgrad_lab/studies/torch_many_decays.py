"""Torch's side of many-decays."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nestgrad_torch as ng
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.studies import torch_linear as linear
from nestgrad_lab.studies.many_decays_settings import PARTS, Settings
from nestgrad_lab.studies.study import Arrays, Context

Parts = list[linear.Batch]


def tune(settings: Settings, context: Context, method: str, layers: int) -> Arrays:
    """Train and tune, and look at the losses on the way."""
    one = settings
    data, parts = linear.load_rows(one.data, context.device, one.train_rows, one.valid_rows, one.test_rows)
    sizes = (data.train.x.shape[1], *[one.hidden] * (layers - 1), data.outputs)
    start = linear.initial_weights(sizes, one.init_scale, context.seed, context.device)
    values = {name: torch.full_like(value, one.start).exp() for name, value in start.items()}
    seen = _Seen(parts)
    {"unrolled": _unroll, "hyper-training": _hyper_train, "fixed": _train}[method](
        one, context, start, values, parts, seen
    )
    count = sum(value.numel() for value in start.values())
    return {**seen.arrays(), "hyperparameters": np.array(count), "layers": np.array(layers)}


class _Seen:
    """The losses at every look; its clock stands still while it looks."""

    def __init__(self, parts: Parts) -> None:
        self._parts = dict(zip(PARTS, parts, strict=True))
        self._rows: dict[str, list[float]] = {}
        self._began = self._spent = 0.0

    def begin(self) -> None:
        """Start the clock."""
        self._began = time.process_time()

    @torch.no_grad()
    def look(self, hyper_step: int, weights: linear.Weights) -> None:
        seconds = time.process_time() - self._began - self._spent
        row = {name: float(linear.squared_error(weights, None, batch)) for name, batch in self._parts.items()}
        x, y = self._parts["test"]
        row["test_error"] = float((linear.outputs_of(weights, x).argmax(1) != y.argmax(1)).float().mean())
        for name, value in {**row, "seconds": seconds, "hyper_step": float(hyper_step)}.items():
            self._rows.setdefault(name, []).append(value)
        self._spent = time.process_time() - self._began - seconds

    def arrays(self) -> dict[str, Array]:
        return {name: np.array(values) for name, values in self._rows.items()}


def _hyper_train(
    one: Settings, context: Context, start: linear.Weights, values: linear.Weights, parts: Parts, seen: _Seen
) -> None:
    """Algorithm 3."""
    train, valid, _ = parts
    tuner = ng.HyperTraining(
        ng.BilevelProblem(ng.Minimize(_inner_loss), linear.squared_error),
        hparams={name: ng.Log(value) for name, value in values.items()},
        response=ng.FactorisedResponse(one.rank),
        optimizer=ng.optim.adam(one.rate),
        outer_optimizer=functools.partial(torch.optim.Adam, lr=one.outer_rate),
        distribution=ng.Normal(variance=one.variance),
        samples=one.samples,
    )
    state: Any = tuner.init(start, key=context.seed)
    every = max(1, one.steps // one.looks)
    seen.begin()
    for step in range(one.steps):
        batches = (linear.cut(part, one.batch, step) for part in (train, valid))
        state, _ = tuner.step(state, *batches)
        if step == 0 or (step + 1) % every == 0:
            seen.look(step + 1, tuner.response_params(state))
            context.tick((step + 1) / one.steps)


def _unroll(
    one: Settings, context: Context, start: linear.Weights, values: linear.Weights, parts: Parts, seen: _Seen
) -> None:
    """Whole runs, differentiated from their last step to their first; the hyper step sees all validation rows."""
    train, valid, _ = parts

    def optimizer(hparams: Any) -> Any:
        return ng.optim.adam(one.unrolled_rate)

    tuner = ng.FullHorizon(
        ng.BilevelProblem(ng.WeightUpdate(_inner_loss, optimizer), linear.squared_error),
        hparams={name: ng.Log(value) for name, value in values.items()},
        method=ng.Unrolled(num_steps=one.unrolled_steps),
        outer_optimizer=functools.partial(torch.optim.Adam, lr=one.unrolled_outer_rate),
    )
    state: Any = tuner.init(start)
    every = max(1, one.unrolled_runs // one.looks)
    seen.begin()
    for run in range(one.unrolled_runs):
        for step in range(one.unrolled_steps):
            state, _ = tuner.step(state, linear.cut(train, one.batch, step), valid)
        if run % every == 0 or run + 1 == one.unrolled_runs:
            seen.look(run + 1, state["params"])
        context.tick((run + 1) / one.unrolled_runs)


def _train(
    one: Settings, context: Context, start: linear.Weights, values: linear.Weights, parts: Parts, seen: _Seen
) -> None:
    """The weights alone."""
    train, _, _ = parts
    weights = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.Adam(weights.values(), lr=one.rate)
    every = max(1, one.steps // one.looks)
    seen.begin()
    for step in range(one.steps):
        optimizer.zero_grad()
        _inner_loss(weights, values, linear.cut(train, one.batch, step)).backward()
        optimizer.step()
        if step == 0 or (step + 1) % every == 0:
            seen.look(step + 1, weights)
            context.tick((step + 1) / one.steps)


def _inner_loss(w: Any, h: Any, batch: linear.Batch) -> Tensor:
    """Squared error + Σ e^λᵢ wᵢ²."""
    decays = torch.stack([(h[name] * w[name].square()).sum() for name in w])
    return linear.squared_error(w, h, batch) + decays.sum()

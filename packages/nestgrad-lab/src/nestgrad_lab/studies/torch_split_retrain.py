"""Torch's side of the study of validation shares and retraining."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch

import nestgrad_torch as ng
from nestgrad_lab.errors import OptionError
from nestgrad_lab.studies import torch_draws as draws
from nestgrad_lab.studies import torch_linear as linear
from nestgrad_lab.studies.split_retrain_settings import KINDS, Settings
from nestgrad_lab.studies.study import Arrays, Context
from nestgrad_lab.studies.torch_linear import Batch, Weights


def run(settings: Settings, context: Context, size: int, kind: str) -> Arrays:
    """All shares and runs of one number of rows."""
    if kind not in KINDS:
        raise OptionError(f"kinds {kind!r}, limit: {' or '.join(KINDS)}. Remedy: name one of these.")
    bench = _Bench(settings, context, kind)
    total = len(settings.shares) * settings.runs
    found = np.empty((4, len(settings.shares), settings.runs))
    for number in range(settings.runs):
        for k, share in enumerate(settings.shares):
            found[:, k, number] = bench.one(size, share, number)
            context.tick((number * len(settings.shares) + k + 1) / total)
    return dict(zip(("before", "after", "validation", "log_decay"), found, strict=True))


class _Bench:
    """A linear model, its test rows and the kind of its hyperparameters."""

    def __init__(self, settings: Settings, context: Context, kind: str) -> None:
        self._settings, self._context, self._kind = settings, context, kind
        self._rows = draws.Rows(settings.data, context.device)
        self._test = self._rows.tested(settings.test_rows)
        sizes = (self._test[0].shape[1], self._rows.found.outputs)
        self._start = linear.initial_weights(sizes, 0.0, 0, context.device)
        loss = draws.decayed(linear.cross_entropy)
        self._update = ng.WeightUpdate(loss, lambda h: ng.optim.adam(settings.rate))

    def one(self, size: int, share: float, number: int) -> tuple[float, float, float, float]:
        """(test accuracy as tuned, and retrained; validation accuracy, NaN without such rows; the median λ)."""
        held = round(size * share)
        seed = 1000 * self._context.seed + number
        (rows,) = self._rows.drawn((size,), seed)
        valid, train = (rows[0][:held], rows[1][:held]), (rows[0][held:], rows[1][held:])
        weights, decays = self._tuned(train, valid) if held else (self._trained(self._spaces(), rows), self._spaces())
        again = self._trained(decays, rows)
        validated = self._accuracy(weights, valid) if held else math.nan
        middle = torch.cat([space.initial.flatten() for space in _leaves(decays)]).log().median()
        return self._accuracy(weights, self._test), self._accuracy(again, self._test), validated, float(middle)

    def _tuned(self, train: Batch, valid: Batch) -> tuple[Weights, Any]:
        """The weights and the spaces holding the decays, after all epochs."""
        one = self._settings
        tuner = ng.OnePass(
            ng.BilevelProblem(self._update, outer_loss=linear.cross_entropy),
            hparams=self._spaces(),
            every=1,
            method=ng.Implicit(solver=ng.Identity(scale=1.0)),
            outer_optimizer=functools.partial(torch.optim.RMSprop, lr=one.outer_rate),
            guard=ng.Guard(),
        )
        state: Any = tuner.init(self._start)
        for _ in range(one.epochs):
            state, _ = tuner.step(state, train, valid)
        values = tuner.values(state)["decay"]
        kept = {name: ng.Log(value) for name, value in values.items()} if isinstance(values, dict) else ng.Log(values)
        return state["params"], {"decay": kept}

    def _trained(self, spaces: Any, rows: Batch) -> Weights:
        """The weights after all epochs with decays that stay, from zero."""
        tuner = ng.Fixed(self._update, hparams=spaces)
        state: Any = tuner.init(self._start)
        for _ in range(self._settings.epochs):
            state, _ = tuner.step(state, rows)
        return state["params"]

    def _spaces(self) -> Any:
        start = self._settings.log_decay
        if self._kind == "one decay":
            return {"decay": ng.Log(self._test[0].new_tensor(start).exp())}
        return draws.each_log(self._start, start)

    def _accuracy(self, weights: Weights, batch: Batch) -> float:
        return draws.accuracy(linear.outputs_of(weights, batch[0]), batch)


def _leaves(spaces: Any) -> list[Any]:
    decay = spaces["decay"]
    return list(decay.values()) if isinstance(decay, dict) else [decay]

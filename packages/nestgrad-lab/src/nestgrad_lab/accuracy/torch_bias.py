"""First hypergradients in PyTorch."""

from __future__ import annotations

import functools
from typing import Any, cast

import torch

import nestgrad_torch as ng
from nestgrad_lab.data import Part
from nestgrad_lab.engines.torch_engine import as_batch, model_loss
from nestgrad_lab.experiments.draws import Start


class FirstHypergradients:
    """From a start: {"exact": …, "weights": …, "weights_and_state": …}, natural hyperparameters' raw gradients."""

    def __init__(self, train: Part, valid: Part, dtype: str, steps: int, lookback: int) -> None:
        self._dtype = getattr(torch, dtype)
        self._train, self._valid = as_batch(train, self._dtype), as_batch(valid, self._dtype)
        self._loss = functools.partial(model_loss, "regression")
        self._steps, self._lookback = steps, lookback

    def __call__(self, start: Start) -> dict[str, dict[str, float]]:
        params = {name: torch.tensor(value, dtype=self._dtype) for name, value in start.weights.items()}
        hparams = {name: torch.tensor(value, dtype=self._dtype) for name, value in start.values.items()}
        window = ng.Unrolled(num_steps=self._steps, lookback=self._lookback)
        exact = self._hypergradient("weights", params, hparams, window, None)
        before = self._hypergradient("weights", params, hparams, ng.Unrolled(num_steps=self._steps - 1), None)
        found = {"exact": _numbers(exact.total)}
        for carry in ("weights", "weights_and_state"):
            found[carry] = self._estimate(carry, before, hparams)
        return found

    def _estimate(self, carry: str, before: Any, hparams: Any) -> dict[str, float]:
        """The series at the weights before the last step, its right-hand side after it, as OnePass takes it."""
        spaces = {name: ng.Real(value) for name, value in hparams.items()}
        tuner = ng.OnePass(
            self._problem(carry),
            hparams=spaces,
            every=1,
            method=ng.Implicit(solver=ng.Neumann(num_terms=self._lookback, step_size=1.0)),
            outer_optimizer=functools.partial(torch.optim.SGD, lr=1.0),
            throw=False,
        )
        state = {**tuner.init(before.params), "opt_state": before.opt_state}
        _, info = tuner.step(cast("Any", state), self._train, self._valid)
        return _numbers(info.hypergradient.total)

    def _hypergradient(self, carry: str, params: Any, hparams: Any, method: Any, opt_state: Any) -> Any:
        return ng.hypergradient(
            self._problem(carry),
            params,
            hparams,
            method=method,
            inner_batch=self._train,
            outer_batch=self._valid,
            opt_state=opt_state,
            throw=False,
        )

    def _problem(self, carry: Any) -> ng.BilevelProblem:
        return ng.BilevelProblem(ng.WeightUpdate(self._loss, _optimizer, carry), self._loss)


def _optimizer(hparams: Any) -> Any:
    return ng.optim.sgd(hparams["learning_rate"], momentum=hparams["momentum"], weight_decay=hparams["weight_decay"])


def _numbers(values: Any) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}

"""First hypergradients in JAX."""

from __future__ import annotations

import functools
from typing import Any, cast

import jax.numpy as jnp
import optax

import nestgrad_jax as ng
from nestgrad_lab.data import Part
from nestgrad_lab.engines.jax_engine import as_batch, model_loss, precision_and_device, sgd
from nestgrad_lab.experiments.draws import Start


class FirstHypergradients:
    """From a start: {"exact": …, "weights": …, "weights_and_state": …}, natural hyperparameters' raw gradients."""

    def __init__(self, train: Part, valid: Part, dtype: str, steps: int, lookback: int) -> None:
        self._dtype, self._steps, self._lookback = dtype, steps, lookback
        with self._precision():
            self._train, self._valid = as_batch(train, dtype), as_batch(valid, dtype)
        loss = functools.partial(model_loss, "regression")
        self._problems = {
            carry: ng.BilevelProblem(ng.WeightUpdate(loss, sgd, cast("Any", carry)), loss)
            for carry in ("weights", "weights_and_state")
        }

    def __call__(self, start: Start) -> dict[str, dict[str, float]]:
        with self._precision():
            params = {name: jnp.asarray(value, self._dtype) for name, value in start.weights.items()}
            hparams = {name: jnp.asarray(value, self._dtype) for name, value in start.values.items()}
            exact = self._through(params, hparams, ng.Unrolled(num_steps=self._steps, lookback=self._lookback))
            before = self._through(params, hparams, ng.Unrolled(num_steps=self._steps - 1))
            found = {"exact": _numbers(exact.total)}
            for carry in self._problems:
                found[carry] = self._estimate(carry, before, hparams)
        return found

    def _estimate(self, carry: str, before: Any, hparams: Any) -> dict[str, float]:
        """The series at the weights before the last step, its right-hand side after it, as OnePass takes it."""
        state = {**self._tuner(carry).init(before.params), "opt_state": before.opt_state, "hparams": hparams}
        _, info = self._tuner(carry).step(cast("Any", state), self._train, self._valid)
        return _numbers(info.hypergradient.total)

    @functools.cache  # noqa: B019  (one tuner an estimator, for as long as this object lives)
    def _tuner(self, carry: str) -> ng.OnePass:
        return ng.OnePass(
            self._problems[carry],
            hparams={name: ng.Real(0.1) for name in ("learning_rate", "momentum", "weight_decay")},
            every=1,
            method=ng.Implicit(solver=ng.Neumann(num_terms=self._lookback, step_size=1.0)),
            outer_optimizer=optax.sgd(1.0),
            throw=False,
        )

    def _through(self, params: Any, hparams: Any, method: Any) -> Any:
        return ng.hypergradient(
            self._problems["weights"],
            params,
            hparams,
            method=method,
            inner_batch=self._train,
            outer_batch=self._valid,
            throw=False,
        )

    def _precision(self) -> Any:
        return precision_and_device(self._dtype, None)


def _numbers(values: Any) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}

"""Torch's side of the study of validation sets that are fitted by heart."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import nestgrad_torch as ng
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.errors import OptionError
from nestgrad_lab.studies import torch_draws as draws
from nestgrad_lab.studies import torch_linear as linear
from nestgrad_lab.studies.overfit_validation_settings import METHODS, MODELS, Settings
from nestgrad_lab.studies.study import Arrays, Context
from nestgrad_lab.studies.torch_linear import Batch, Weights

KERNEL, POOLED = 5, 4
"""Sides of a filter, and of what the two poolings make one of."""
Outputs = Callable[[Mapping[str, Tensor], Tensor], Tensor]


def run(settings: Settings, context: Context, model: str, method: str) -> Arrays:
    """All runs of one model and method."""
    if model not in MODELS or method not in METHODS:
        raise OptionError(
            f"{model}, {method}: no such pair, limit: {', '.join(MODELS)}; {', '.join(METHODS)}. "
            "Remedy: name some of these."
        )
    bench = _Bench(settings, context, model)
    runs = [bench.one(method, number) for number in range(settings.runs)]
    return {
        "step": runs[0][0],
        "loss": np.stack([seen[:, 0] for _, seen, _ in runs], 1),
        "accuracy": np.stack([seen[:, 1] for _, seen, _ in runs], 1),
        "log_decay": np.concatenate([decays for *_, decays in runs]),
        "hyperparameters": np.array(len(runs[0][2])),
    }


class _Bench:
    """A model, and the data it is seen on."""

    def __init__(self, settings: Settings, context: Context, model: str) -> None:
        self._settings, self._context, self._model = settings, context, model
        self._rows = draws.Rows(settings.data, context.device)
        self._test = self._rows.tested(settings.test_rows)
        self._outputs: Outputs = convolved if model == "convolutional" else linear.outputs_of

    def one(self, method: str, number: int) -> tuple[Array, Array, Array]:
        """(hyper steps, [loss, accuracy] of train, validation and test at each, λ at the end) of a run."""
        one, seed = self._settings, 1000 * self._context.seed + number
        train, valid = self._rows.drawn((one.rows, one.rows), seed)
        weights = self._initial(seed)
        tuner = self._tuner(method, weights)
        state: Any = tuner.init(weights)
        steps, seen = [0], [self._seen(state, train, valid)]
        every = max(1, one.hyper_steps // one.looks)
        for step in range(1, one.hyper_steps + 1):
            if isinstance(tuner, ng.OnePass):
                state, _ = tuner.run(state, [train] * one.inner_steps, valid)
            else:
                for _ in range(one.inner_steps):
                    state, _ = tuner.step(state, train)
            if step % every == 0 or step == one.hyper_steps:
                steps.append(step)
                seen.append(self._seen(state, train, valid))
                self._context.tick((number + step / one.hyper_steps) / one.runs)
        decays = torch.cat([value.flatten() for value in tuner.values(state)["decay"].values()]).log()
        return np.array(steps), np.array(seen), decays.cpu().numpy().astype(np.float64)

    def _tuner(self, method: str, weights: Weights) -> ng.OnePass | ng.Fixed:
        one = self._settings
        update = ng.WeightUpdate(draws.decayed(self._loss), lambda h: ng.optim.adam(one.rate))
        hparams = draws.each_log(weights, one.log_decay)
        if method == "fixed":
            return ng.Fixed(update, hparams=hparams)
        terms = 1 if method == "identity" else one.terms
        return ng.OnePass(
            ng.BilevelProblem(update, outer_loss=self._loss),
            hparams=hparams,
            every=one.inner_steps,
            method=ng.Implicit(solver=ng.Neumann(num_terms=terms, step_size=1.0)),
            outer_optimizer=functools.partial(torch.optim.RMSprop, lr=one.outer_rate),
            guard=ng.Guard(),
        )

    def _loss(self, w: Any, h: Any, batch: Any) -> Tensor:
        return -(self._outputs(w, batch[0]).log_softmax(1) * batch[1]).sum(1).mean()

    @torch.no_grad()
    def _seen(self, state: Any, train: Batch, valid: Batch) -> list[list[float]]:
        """[losses, accuracies] on training, validation and test rows."""
        w, parts = state["params"], (train, valid, self._test)
        losses = [float(self._loss(w, None, batch)) for batch in parts]
        return [losses, [draws.accuracy(self._outputs(w, batch[0]), batch) for batch in parts]]

    def _initial(self, seed: int) -> Weights:
        """Normal weights, of the deviation 1/√inputs in each layer; zeros for the linear model, and biases."""
        inputs, classes = self._test[0].shape[1], self._rows.found.outputs
        if self._model == "linear":
            return linear.initial_weights((inputs, classes), 0.0, seed, self._context.device)
        if self._model == "mlp":
            found = linear.initial_weights((inputs, self._settings.hidden, classes), 1.0, seed, self._context.device)
        else:
            found = self._filters(math.isqrt(inputs), classes, seed)
        return {name: value * _scale(name, value) for name, value in found.items()}

    def _filters(self, side: int, classes: int, seed: int) -> Weights:
        one, two = self._settings.filters
        generator = torch.Generator("cpu").manual_seed(seed)
        shapes: dict[str, tuple[int, ...]] = {
            "k1": (one, 1, KERNEL, KERNEL),
            "b1": (one,),
            "k2": (two, one, KERNEL, KERNEL),
            "b2": (two,),
            "w3": (two * (side // POOLED) ** 2, classes),
            "b3": (classes,),
        }
        return {
            name: torch.randn(shape, generator=generator, device="cpu").to(self._test[0].device)
            for name, shape in shapes.items()
        }


def convolved(w: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Two convolutions, each with ReLU and 2 × 2 pooling, and a linear layer. x: square images, (n, pixels)."""
    side = math.isqrt(x.shape[1])
    z = x.reshape(-1, 1, side, side)
    for layer in ("1", "2"):
        z = functional.conv2d(z, w[f"k{layer}"], w[f"b{layer}"], padding=KERNEL // 2)
        z = functional.max_pool2d(z.relu(), 2)
    return z.flatten(1) @ w["w3"] + w["b3"]


def _scale(name: str, value: Tensor) -> float:
    """1/√inputs of a unit; 0 for a bias."""
    if name.startswith("b"):
        return 0.0
    inputs = value.shape[0] if name.startswith("w") else value[0].numel()
    return inputs**-0.5

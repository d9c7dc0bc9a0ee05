"""Training and tuning in PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import nestgrad_torch as ng
from nestgrad_lab.batches import Segment
from nestgrad_lab.data import Part
from nestgrad_lab.data.dataset import Array, Task
from nestgrad_lab.engines.engine import Plan, Report
from nestgrad_lab.errors import OptionError
from nestgrad_lab.hyperparameters import spaces
from nestgrad_lab.models import Weights


class TorchEngine:
    """The two runs; see Engine."""

    def __init__(self, plan: Plan, weights: Weights, train: Part, valid: Part) -> None:
        self._plan = plan
        self._device = device_named(plan.device)
        self._dtype = getattr(torch, plan.dtype)
        self._train, self._valid = (as_batch(part, self._dtype, self._device) for part in (train, valid))
        self._loss = functools.partial(model_loss, plan.task)
        start = {name: self._put(value) for name, value in weights.items()}
        self._plain = _PlainRun(self._loss, start, plan)
        if plan.tuned:
            self._tuner = _tuner(self._loss, plan)
            self._state = self._tuner.init(start)
        self._infos: list[Any] = []

    def warm_up(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            twin = _PlainRun(self._loss, self._plain.weights, self._plan)
            twin.run(self._batches(segment))
            if self._plan.tuned:
                self._advance({**self._state, "step": self._plan.every - 1}, segment)

    def tune(self, segment: Segment) -> None:
        self._state, self._infos = self._advance(self._state, segment)
        self._wait()

    def train(self, segment: Segment) -> None:
        self._plain.run(self._batches(segment))
        self._wait()

    def tuned_report(self) -> Report:
        last = self._infos[-1]
        found = last.hypergradient
        return Report(
            inner_losses=_numbers([info.inner_loss for info in self._infos]),
            tuned=bool(last.tuned),
            outer_loss=float(found.outer_loss),
            hypergradient={name: float(value) for name, value in found.total.items()},
            values={name: float(value) for name, value in last.hparams.items()},
            status=found.status.name,
        )

    def plain_losses(self) -> Array:
        return _numbers(self._plain.losses)

    def tuned_weights(self) -> Weights:
        return {name: value.detach().cpu().numpy() for name, value in self._state["params"].items()}

    def plain_weights(self) -> Weights:
        return {name: value.detach().cpu().numpy().copy() for name, value in self._plain.weights.items()}

    def _advance(self, state: Any, segment: Segment) -> tuple[Any, list[Any]]:
        infos = []
        valid = self._valid
        if segment.valid_rows is not None:
            rows = torch.from_numpy(segment.valid_rows).to(self._device)
            valid = {name: values[rows] for name, values in valid.items()}
        for batch in self._batches(segment):
            state, info = self._tuner.step(state, batch, valid)
            infos.append(info)
        return state, infos

    def _batches(self, segment: Segment) -> list[dict[str, Tensor]]:
        if segment.rows is None:
            return [self._train] * segment.steps
        each = torch.from_numpy(segment.rows).to(self._device)
        return [{name: values[rows] for name, values in self._train.items()} for rows in each]

    def _put(self, array: Array) -> Tensor:
        return torch.tensor(array, dtype=self._dtype, device=self._device)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class _PlainRun:
    """What one writes without nestgrad: a backward pass and torch.optim, on weights of its own."""

    def __init__(self, loss: Any, weights: dict[str, Tensor], plan: Plan) -> None:
        self._loss = loss
        self.weights = {name: value.detach().clone().requires_grad_() for name, value in weights.items()}
        self.losses: list[Tensor] = []
        self._optimizer = _plain_optimizer(list(self.weights.values()), plan)

    def run(self, batches: list[dict[str, Tensor]]) -> None:
        """One step a batch."""
        self.losses = []
        for batch in batches:
            self._optimizer.zero_grad()
            loss = self._loss(self.weights, None, batch)
            loss.backward()
            self._optimizer.step()
            self.losses.append(loss.detach())


def _plain_optimizer(weights: list[Tensor], plan: Plan) -> torch.optim.Optimizer:
    start = plan.start
    rate, decay = start["learning_rate"], start["weight_decay"]
    if plan.inner == "adam":
        return torch.optim.AdamW(weights, lr=rate, betas=(start["b1"], start["b2"]), weight_decay=decay)
    return torch.optim.SGD(weights, lr=rate, momentum=start["momentum"], weight_decay=decay)


def _tuner(loss: Any, plan: Plan) -> ng.OnePass:
    fixed = plan.fixed

    def optimizer(hparams: Any) -> Any:
        values = {**fixed, **hparams}
        return ng.optim.adamw(**values) if plan.inner == "adam" else ng.optim.sgd(**values)

    return ng.OnePass(
        ng.BilevelProblem(ng.WeightUpdate(loss, optimizer, plan.carry), outer_loss=loss),
        hparams=spaces(plan.tuned, plan.inner),
        every=plan.every,
        method=plan.method,
        outer_optimizer=functools.partial(torch.optim.Adam, lr=plan.outer_lr),
        throw=False,  # a run that diverges is stopped by its status, in every backend alike
    )


def model_loss(task: Task, params: dict[str, Tensor], hparams: Any, batch: dict[str, Tensor]) -> Tensor:
    """Mean squared error, or mean cross entropy, of one hidden ReLU layer."""
    hidden = functional.relu(functional.linear(batch["x"], params["hidden.weight"], params["hidden.bias"]))
    predicted = functional.linear(hidden, params["output.weight"], params["output.bias"])
    if task == "classification":
        return functional.cross_entropy(predicted, batch["y"])
    return functional.mse_loss(predicted, batch["y"])


def as_batch(part: Part, dtype: torch.dtype, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """x and y in the dtype, but for class numbers and word numbers."""

    def tensor(array: Array) -> Tensor:
        return torch.tensor(array, dtype=torch.long if array.dtype.kind == "i" else dtype, device=device)

    return {"x": tensor(part.x), "y": tensor(part.y)}


def device_named(name: str) -> torch.device:
    """The device, proved by a number put there and read back."""
    try:
        device = torch.device(name)
        float(torch.zeros((), device=device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise OptionError(
            f"--device {name!r}: {reason}, limit: {', '.join(_devices())}. Remedy: use --device cpu."
        ) from None
    return device


def _devices() -> list[str]:
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def _numbers(losses: list[Tensor]) -> Array:
    return torch.stack(losses).cpu().numpy().astype(np.float64)


ENGINE = TorchEngine

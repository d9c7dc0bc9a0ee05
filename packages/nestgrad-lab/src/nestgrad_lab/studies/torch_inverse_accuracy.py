"""Torch's side of the study of inverse Hessians and of what stands for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import nestgrad_torch as ng
from nestgrad_lab.data.dataset import Array, Part
from nestgrad_lab.engines.torch_engine import device_named
from nestgrad_lab.errors import OptionError
from nestgrad_lab.studies import torch_draws as draws
from nestgrad_lab.studies.inverse_accuracy_settings import Settings
from nestgrad_lab.studies.study import Arrays, Context
from nestgrad_lab.studies.torch_linear import Batch

PICTURE = 500
"""Rows and columns of a picture, at most: evenly spaced ones of more."""


def compared(settings: Settings, context: Context, log_decay: float) -> Arrays:
    """Hypergradients of all kinds at the looks of one run; ends of the Hessian's spectrum."""
    run = _Regression(settings, context, log_decay)
    found: dict[str, list[Any]] = {name: [] for name in ("exact", "neumann", "cg", "smallest", "largest")}
    for _ in range(settings.warm_up):
        run.train()
    for step in range(max(settings.looks) + 1):
        if step in settings.looks:
            for name, value in run.seen().items():
                found[name].append(value)
        run.tune()
        context.tick(step / (max(settings.looks) + 1))
    return {name: np.array(values) for name, values in found.items()}


class _Regression:
    """Linear regression with a decay for each weight, on the way."""

    def __init__(self, settings: Settings, context: Context, log_decay: float) -> None:
        data = draws.Rows(settings.data, context.device).found
        if data.task != "regression":
            raise OptionError(
                f"data {settings.data!r}: for {data.task}, limit: regression. Remedy: --set data=uci/boston."
            )
        device = device_named(context.device)
        self._settings = settings
        self._train, self._valid = (_doubles(part, device) for part in (data.train, data.valid))
        generator = torch.Generator("cpu").manual_seed(context.seed)
        start = 0.1 * torch.randn(len(data.features) + 1, generator=generator, device="cpu", dtype=torch.float64)
        self._weights = start.to(device).requires_grad_()
        self._logs = torch.full_like(start, log_decay).to(device).requires_grad_()
        self._inner_optimizer = torch.optim.Adam([self._weights], lr=settings.rate)
        self._outer_optimizer = torch.optim.RMSprop([self._logs], lr=settings.outer_rate)
        self._problem = ng.BilevelProblem(ng.Minimize(_penalised), outer_loss=_error)

    def train(self) -> None:
        """One step of the weights."""
        self._inner_optimizer.zero_grad()
        _penalised(self._weights, self._logs.detach(), self._train).backward()
        self._inner_optimizer.step()

    def tune(self) -> None:
        """One step of the weights, and one of λ."""
        self.train()
        self._logs.grad = self._hypergradient(self._series(self._settings.tuned_by))
        self._outer_optimizer.step()

    def seen(self) -> dict[str, Any]:
        """Hypergradients of all kinds, and the least and largest eigenvalue of the Hessian."""
        one = self._settings
        kinds = {
            "neumann": [self._series(count) for count in one.terms],
            "cg": [ng.CG(rtol=0.0, max_steps=count) for count in one.cg_steps],
        }
        found: dict[str, Any] = {
            name: np.stack([_array(self._hypergradient(solver)) for solver in solvers])
            for name, solvers in kinds.items()
        }
        logs = self._logs.detach()
        values = torch.linalg.eigvalsh(hessian(lambda w: _penalised(w, logs, self._train), self._weights.detach()))
        ends = {"smallest": float(values[0]), "largest": float(values[-1])}
        return {**found, "exact": _array(self._hypergradient(ng.Dense())), **ends}

    def _series(self, terms: int) -> ng.Neumann:
        return ng.Neumann(num_terms=terms, step_size=self._settings.step_size)

    def _hypergradient(self, solver: Any) -> Tensor:
        return ng.hypergradient(
            self._problem,
            self._weights.detach(),
            self._logs.detach(),
            method=ng.Implicit(solver=solver),
            inner_batch=self._train,
            outer_batch=self._valid,
        ).total


def _error(w: Tensor, h: Any, batch: Batch) -> Tensor:
    return 0.5 * (batch[0] @ w - batch[1]).square().mean()


def _penalised(w: Tensor, logs: Tensor, batch: Batch) -> Tensor:
    return _error(w, None, batch) + 0.5 * (logs.exp() * w.square()).sum()


def _doubles(part: Part, device: torch.device) -> Batch:
    """(inputs and a column of ones, targets)."""
    x = torch.tensor(part.x, dtype=torch.float64, device=device)
    y = torch.tensor(part.y[:, 0], dtype=torch.float64, device=device)
    return torch.cat([x, torch.ones_like(x[:, :1])], 1), y


def inverse(settings: Settings, context: Context) -> Arrays:
    """The Hessian's eigenvalues at the minimum, and pictures of its inverse and of the series for it."""
    rows, classes = _small_images(settings, context)

    def loss(w: Tensor) -> Tensor:
        return classifier_loss(w, settings.decay, rows, classes)

    weights = _least(loss, rows.new_zeros(rows.shape[1] * classes.shape[1]))
    context.tick(0.2)
    values, vectors = torch.linalg.eigh(hessian(loss, weights))
    context.tick(0.6)
    series = [picture(values, vectors, order) for order in settings.orders]
    return {
        "eigenvalues": _array(values),
        "gradient": np.array(float(torch.func.grad(loss)(weights).norm())),
        "picture_inverse": picture(values, vectors, None),
        "picture_series": np.stack(series),
    }


def classifier_loss(w: Tensor, decay: float, rows: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of a linear classifier, and decay/2 ‖w‖². w: class by class; rows: with ones at the end."""
    outputs = rows @ w.reshape(classes.shape[1], -1).T
    return -(outputs.log_softmax(1) * classes).sum(1).mean() + 0.5 * decay * w.square().sum()


def hessian(loss: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
    """By reverse mode twice, row by row: torch.func.hessian loads what torch itself warns of."""
    return torch.func.jacrev(torch.func.grad(loss), chunk_size=500)(weights)


def series_matrix(values: Tensor, vectors: Tensor, order: int | None) -> Tensor:
    """Σ_{j ≤ order} (I - cH)ʲ with c = 1 over the largest eigenvalue of H; None: what it tends to, (cH)⁻¹."""
    scaled = values / values.max()
    left = torch.zeros_like(scaled) if order is None else (1.0 - scaled) ** (order + 1)
    return (vectors * ((1.0 - left) / scaled)) @ vectors.T


def picture(values: Tensor, vectors: Tensor, order: int | None) -> Array:
    """tanh of some rows and columns of the series' matrix."""
    count = len(values)
    shown = np.arange(min(PICTURE, count)) * count // min(PICTURE, count)
    return np.tanh(_array(series_matrix(values, vectors, order)))[np.ix_(shown, shown)].astype(np.float32)


def _least(loss: Any, start: Tensor) -> Tensor:
    """Where the loss is least, to rounding."""
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=1000, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(weights)
        value.backward()
        return value

    optimizer.step(closure)
    return weights.detach()


def _small_images(settings: Settings, context: Context) -> tuple[Tensor, Tensor]:
    """(images averaged down to side × side pixels and a one, one-hot classes), float64."""
    images = draws.Rows(settings.images, context.device)
    found = images.found
    full = round(len(found.features) ** 0.5)
    if full**2 != len(found.features) or full % settings.side:
        raise OptionError(
            f"images {settings.images!r} of {len(found.features)} pixels, side {settings.side}, limit: square "
            "images whose side is a multiple of it. Remedy: --set images=mnist --set side=7."
        )
    x, y = images.trained(settings.rows)
    small = functional.avg_pool2d(x.double().reshape(-1, 1, full, full), full // settings.side).flatten(1)
    return torch.cat([small, torch.ones_like(small[:, :1])], 1), y.double()


def _array(value: Tensor) -> Array:
    return value.detach().cpu().numpy().astype(np.float64)

"""Torch's side of the study of the logistic map."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import nestgrad_torch as ng
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.engines.torch_engine import device_named
from nestgrad_lab.studies.study import Context


def iterated(growth: Array, start: Array, settle: int, steps: int, context: Context) -> tuple[Array, Array]:
    """(exponents, the values of the steps): entry by entry of x ← r x (1 - x), after settling.

    The entries are one map that does not mix them: along the unit directions its spectrum is the exponent of each.
    """
    rates = torch.tensor(growth, dtype=torch.float64, device=device_named(context.device))

    def step(x: Tensor) -> Tensor:
        return rates * x * (1.0 - x)

    x = torch.tensor(start, dtype=torch.float64, device=rates.device)
    for _ in range(settle):
        x = step(x)
    found = ng.lyapunov_exponents(step, x, num_steps=steps)
    seen: list[Tensor] = []
    for _ in range(steps):
        seen.append(x)
        x = step(x)
    return np.asarray(found.exponents.cpu().numpy()), torch.stack(seen).cpu().numpy()

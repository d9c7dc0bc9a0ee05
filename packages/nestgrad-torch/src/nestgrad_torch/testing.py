"""The harness by which the conformance suite judges this backend."""

from __future__ import annotations

import functools

import numpy as np
import torch

import nestgrad_torch
from nestgrad_conformance import Harness


def harness(device: str = "cpu") -> Harness:
    """The backend on one device."""
    return Harness(
        backend=nestgrad_torch,
        xp=torch,
        from_numpy=lambda array: torch.as_tensor(array, device=device),
        to_numpy=lambda x: np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x),
        dtypes=("float64", "float32"),
        sgd=nestgrad_torch.optim.sgd,
        adam=lambda learning_rate: functools.partial(torch.optim.Adam, lr=learning_rate),
        detach=torch.detach,
        reversible=nestgrad_torch.optim.reversible_sgd,
        grad=torch.func.grad,
        optim=nestgrad_torch.optim,
    )

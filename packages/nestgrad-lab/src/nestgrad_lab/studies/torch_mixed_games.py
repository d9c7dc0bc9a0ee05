"""Torch's side of the study of games between cooperation and opposition."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import nestgrad_torch as ng
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.engines.torch_engine import device_named
from nestgrad_lab.studies.study import Context


def mixed(curvatures: Array, opposed: Array, context: Context) -> ng.Game:
    """min over x, max over y of Σ γ d x y + ½ (1 - γ) d x² - ½ (1 - γ) d y², d curvatures, γ how far opposed."""
    where = {"dtype": torch.float64, "device": device_named(context.device)}
    across = torch.tensor(opposed * curvatures, **where)
    along = 0.5 * torch.tensor((1.0 - opposed) * curvatures, **where)

    def value(p: Any) -> Tensor:
        return (across * p["x"] * p["y"] + along * (p["x"].square() - p["y"].square())).sum()

    return ng.Game({"x": lambda p, batch: value(p), "y": lambda p, batch: -value(p)})


def jacobian(game: ng.Game, size: int, context: Context) -> Array:
    """The game Jacobian at 0, where it is the same as everywhere."""
    zero = torch.zeros(2, size, dtype=torch.float64, device=device_named(context.device))
    return np.asarray(ng.game_jacobian(game, {"x": zero[0], "y": zero[1]}).cpu().numpy())

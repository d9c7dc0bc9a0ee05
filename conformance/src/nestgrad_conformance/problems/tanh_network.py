"""A small tanh network in a nested tree: not quadratic, with direct terms, shared and per-unit hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems._case import Case


@dataclass(frozen=True)
class NetworkLoss:
    """mean (f(x) - y)² with f(x) = tanh(x W + b) · (gain ⊙ v) + c."""

    xp: Any

    def residuals(self, params: Any, hparams: Any, batch: Any) -> Any:
        """f(x) - y, one a row."""
        x, y = batch
        weights, bias = params["hidden"]
        out = params["out"]
        return self.xp.tanh(x @ weights + bias) @ (hparams["gain"] * out["v"]) + out["c"] - y

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return self.xp.sum(self.residuals(params, hparams, batch) ** 2) / batch[0].shape[0]


@dataclass(frozen=True)
class DecayedNetworkLoss:
    """The network's loss plus ½ exp(λ) times the squared norm of all weights."""

    xp: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        weights, bias = params["hidden"]
        out = params["out"]
        size = self.xp.sum(weights**2) + self.xp.sum(bias**2) + self.xp.sum(out["v"] ** 2) + out["c"] ** 2
        return NetworkLoss(self.xp)(params, hparams, batch) + 0.5 * self.xp.exp(hparams["decay"]) * size


def network_params(draw: Draw, inputs: int, units: int) -> Any:
    """Drawn params: a tuple, a dict and a 0-d array inside a dict with keys out of order."""
    return {
        "out": {"v": 0.7 * draw.normal(units), "c": 0.3 * draw.normal()},
        "hidden": (0.7 * draw.normal(inputs, units), 0.3 * draw.normal(units)),
    }


def tanh_network(draw: Draw, inputs: int = 2, units: int = 2, rows: int = 6, outer_rows: int = 4) -> Case:
    """A drawn network at a drawn (not optimal) point; its gain has a direct term, its decay has none."""
    return Case(
        inner_loss=DecayedNetworkLoss,
        outer_loss=NetworkLoss,
        params=network_params(draw, inputs, units),
        hparams={"gain": 1.0 + 0.2 * draw.normal(units), "decay": np.asarray(0.5 + 0.2 * draw.normal())},
        inner_batch=(draw.normal(rows, inputs), draw.normal(rows)),
        outer_batch=(draw.normal(outer_rows, inputs), draw.normal(outer_rows)),
    )

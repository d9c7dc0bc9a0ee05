"""A network of gated layers with perturbed hyperparameters, the same code for plain weights and for a row's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nestgrad import BilevelProblem, Minimize, PredictionLoss
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.harness import Harness


@dataclass(frozen=True)
class GatedPrediction:
    """gain · (out · tanh(hidden(scale ⊙ x)) + shift), and the squared norm of the general weights."""

    xp: Any
    gated: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        hidden = self.xp.tanh(self.gated.linear(params["hidden"], batch[0] * hparams["scale"]))
        out = self.gated.linear(params["out"], hidden)[:, 0] + params["shift"]
        general = getattr(params, "general", params)
        norm = self.xp.sum(general["hidden"]["weight"] ** 2) + self.xp.sum(general["out"]["weight"] ** 2)
        return {"out": hparams["gain"] * out, "norm": norm}


@dataclass(frozen=True)
class GatedFit:
    """Mean squared error of a prediction plus ½ exp(decay) times its norm, the decay's mean over rows."""

    xp: Any

    def __call__(self, found: Any, hparams: Any, batch: Any) -> Any:
        decay = self.xp.exp(hparams["decay"])
        mean = self.xp.sum(decay) / (decay.shape[0] if decay.shape else 1)
        return self.xp.sum((found["out"] - batch[1]) ** 2) / batch[1].shape[0] + 0.5 * mean * found["norm"]


@dataclass(frozen=True)
class GatedOuter:
    """Mean squared error alone."""

    xp: Any
    gated: Any

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        found = GatedPrediction(self.xp, self.gated)(params, hparams, batch)["out"]
        return self.xp.sum((found - batch[1]) ** 2) / batch[1].shape[0]


def gated_problem(harness: Harness) -> BilevelProblem:
    """The network's problem; hyperparameters decay (), gain () and scale (inputs,)."""
    backend: Any = harness.backend
    inner = PredictionLoss(predict=GatedPrediction(harness.xp, backend.gated), loss=GatedFit(harness.xp))
    return BilevelProblem(Minimize(inner), GatedOuter(harness.xp, backend.gated))


def gated_params(draw: Draw) -> Any:
    """Drawn params of two units and two inputs, with a square leaf, a number, and keys out of order."""
    return {
        "out": {"weight": 0.7 * draw.normal(1, 2)},
        "hidden": {"weight": 0.7 * draw.normal(2, 2), "bias": 0.3 * draw.normal(2)},
        "shift": 0.3 * draw.normal(),
    }


def gated_leaves(draw: Draw) -> Any:
    """Unconstrained leaves near the initial ones of `gated_spaces`."""
    return {"scale": 0.2 * draw.normal(2), "decay": np.asarray(0.4 + 0.1 * draw.normal()), "gain": 0.3 * draw.normal()}


def gated_batch(draw: Draw, rows: int) -> Any:
    """Inputs and targets."""
    return draw.normal(rows, 2), draw.normal(rows)

"""Weight updates by SGD with momentum and weight decay, with a rate for all or one a parameter."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import tree
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems._case import Case
from nestgrad_conformance.problems.tanh_network import NetworkLoss, network_params


def updated(draw: Draw, case: Case, *, per_parameter: bool, rate: float = 0.3, warm: bool = True) -> Case:
    """The case's inner loss, minimised by SGD steps whose settings join the hyperparameters."""

    def spread(p: np.ndarray) -> np.ndarray:
        return rate * np.exp(0.5 * draw.normal(*p.shape))

    def gradient(p: np.ndarray) -> np.ndarray:
        return draw.normal(*p.shape)

    settings = {
        "lr": tree.map(spread, case.params) if per_parameter else np.asarray(rate * np.exp(0.3 * draw.normal())),
        "momentum": np.asarray(draw.rng.uniform(0.2, 0.8)),
        "weight_decay": np.asarray(0.1 * np.exp(0.3 * draw.normal())),
    }
    grads: Any = tree.map(gradient, case.params) if warm else None
    return case.with_(hparams={**case.hparams, **settings}, kind="update", warm_grads=grads)


def updated_network(draw: Draw, *, per_parameter: bool, rate: float = 0.2, warm: bool = True) -> Case:
    """A tanh network without decay in its loss, moved by SGD."""
    base = Case(
        inner_loss=NetworkLoss,
        outer_loss=NetworkLoss,
        params=network_params(draw, 2, 2),
        hparams={"gain": 1.0 + 0.2 * draw.normal(2)},
        inner_batch=(draw.normal(6, 2), draw.normal(6)),
        outer_batch=(draw.normal(4, 2), draw.normal(4)),
    )
    return updated(draw, base, per_parameter=per_parameter, rate=rate, warm=warm)

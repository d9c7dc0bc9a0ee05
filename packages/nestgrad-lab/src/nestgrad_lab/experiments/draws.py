"""The random starts of Clarke et al. 2022: hyperparameters and weights, the same for every algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nestgrad_lab.engines import Inner
from nestgrad_lab.models import Weights
from nestgrad_lab.networks import Network

FACTOR = (0.95, 1.01)
"""The range of the factor that "Random (xLR)" multiplies the learning rate by."""


@dataclass(frozen=True)
class Start:
    """Initial hyperparameters and weights, and the start's number."""

    number: int
    values: Mapping[str, float]
    weights: Weights
    factor: float


def draw_starts(numbers: range, network: Network, dtype: str, seed: int, inner: Inner) -> list[Start]:
    """Hyperparameters drawn for the inner optimizer, and weights of its own for each start, the same for every inner.

    log10 learning rate ~ U(-6, -1) and log10 weight decay ~ U(-7, -2); sgd: momentum ~ U(0, 1), as in the paper; adam:
    log10(1 - b1) ~ U(-2, 0) and log10(1 - b2) ~ U(-4, -1), its decay decoupled and its eps 1e-8.

    Start k is the same whatever the count, so that 16 starts are the first 16 of 200.
    """
    draw = {"sgd": _sgd, "adam": _adam}[inner]
    return [
        Start(
            k,
            draw(seed, k),
            network.draw(dtype, [seed, k, 1]),
            float(np.random.default_rng([seed, k, 3]).uniform(*FACTOR)),
        )
        for k in numbers
    ]


def _sgd(seed: int, k: int) -> dict[str, float]:
    rate, decay, momentum = np.random.default_rng([seed, k, 0]).uniform([-6.0, -7.0, 0.0], [-1.0, -2.0, 1.0])
    return {"learning_rate": 10.0**rate, "momentum": float(momentum), "weight_decay": 10.0**decay}


def _adam(seed: int, k: int) -> dict[str, float]:
    low, high = [-6.0, -2.0, -4.0, -7.0], [-1.0, 0.0, -1.0, -2.0]
    rate, first, second, decay = 10.0 ** np.random.default_rng([seed, k, 2]).uniform(low, high)
    return {
        "learning_rate": float(rate),
        "b1": float(1.0 - first),
        "b2": float(1.0 - second),
        "weight_decay": float(decay),
    }

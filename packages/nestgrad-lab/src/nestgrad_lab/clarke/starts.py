"""The random starts of Clarke et al. 2022, and how one of them ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nestgrad_lab.models import Weights, draw_weights


@dataclass(frozen=True)
class Start:
    """Initial hyperparameters and weights."""

    values: Mapping[str, float]
    weights: Weights


@dataclass(frozen=True)
class End:
    """Hyperparameters and weights after the last step."""

    values: Mapping[str, float]
    weights: Weights


def draw_starts(count: int, inputs: int, hidden: int, dtype: str, seed: int) -> list[Start]:
    """log10 learning rate ~ U(-6, -1), log10 weight decay ~ U(-7, -2), momentum ~ U(0, 1); weights of its own for each.

    Start k is the same whatever the count, so that 16 starts are the first 16 of 200.
    """
    found: list[Start] = []
    for k in range(count):
        rate, decay, momentum = np.random.default_rng([seed, k, 0]).uniform([-6.0, -7.0, 0.0], [-1.0, -2.0, 1.0])
        values = {"learning_rate": 10.0**rate, "momentum": float(momentum), "weight_decay": 10.0**decay}
        found.append(Start(values, draw_weights(inputs, hidden, 1, dtype, [seed, k, 1])))
    return found

"""Baselines of the tuners' shape: hyperparameters that stay, and ones that drift by a factor drawn once.

Fixed: each step is a weight step; the hyperparameters stay at their initial values.

RandomMultiplier: `init` draws one factor r for each hyperparameter (each space), uniform in [low, high). Each step is a
weight step; when `every` divides the count of steps, natural values then become λ ← r λ, and leaves beyond their clip
range are set to its end. A value that leaves its space raises OutOfSpace. (Clarke et al. 2022, "Random ×LR": low 0.95,
high 1.01, every 10, on the learning rate.)

Neither takes an outer loss; `step` ignores an outer batch, so that any tuner fits the same loop.
"""

from __future__ import annotations

import math
from typing import Any, TypedDict

from nestgrad._errors import InvalidInput
from nestgrad._problem import WeightUpdate
from nestgrad._tuners.one_pass import check_every, check_spaces, require_weight_update


class FixedState(TypedDict):
    """A plain tree: params, opt_state, hparams, step and buffers as in OnePassState."""

    params: Any
    opt_state: Any
    hparams: Any
    step: Any
    buffers: Any


class RandomMultiplierState(FixedState):
    """As FixedState, with `multipliers`: a tree shaped like hparams' spaces, one 0-d factor each."""

    multipliers: Any


def check_fixed(inner: Any, hparams: Any) -> WeightUpdate:
    """The weight update, once it is checked that the tuner can be built; else InvalidInput, UnsupportedSpec."""
    update = require_weight_update("Fixed", inner)
    check_spaces("Fixed", hparams)
    return update


def check_random_multiplier(inner: Any, hparams: Any, every: int, low: float, high: float) -> WeightUpdate:
    """The weight update, once it is checked that the tuner can be built; else InvalidInput, UnsupportedSpec."""
    update = require_weight_update("RandomMultiplier", inner)
    check_every("RandomMultiplier", every)
    check_spaces("RandomMultiplier", hparams)
    ends: tuple[Any, Any] = (low, high)
    numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) and math.isfinite(end) for end in ends)
    if not numbers or not 0.0 < low < high:
        raise InvalidInput(
            f"RandomMultiplier: got low={low!r}, high={high!r}, limit: finite numbers, 0 < low < high. "
            "Remedy: pass low=0.95, high=1.01."
        )
    return update

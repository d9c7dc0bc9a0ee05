"""Real-time forward mode: the sensitivities of the weights to the hyperparameters are carried along the run.

The inner problem is a WeightUpdate whose step is s_t = Φ(s_{t-1}, λ), s the weights and the optimizer state's floating
leaves (whatever `carry` says). Z_t, one column a hyperparameter entry, starts at zero; every training step takes

    Z_t = μ (∂Φ/∂s) Z_{t-1} + ∂Φ/∂λ        at (s_{t-1}, λ) on that step's inner batch, μ = decay.

When `every` divides t, the hypergradient at the new weights, on that step's outer batch, is ∂L_out/∂λ + Z_tᵀ g with
g = ∂L_out/∂s_t; the chain rule of each space turns it into the gradient in the leaves, the outer optimizer takes one
step on them, and leaves beyond their clip range are set to its end. Z goes on. μ = 1 is real-time hyperparameter
optimisation (Franceschi et al. 2017, alg. 2); μ = 0 is hypergradient descent on the outer loss; a fixed μ between is
MARTHE without its adaptation of μ (Donini et al. 2020). Cost: m + 1 training gradients a step and m copies of s, for m
hyperparameter entries.
"""

from __future__ import annotations

import math
from typing import Any, NotRequired, TypedDict

from nestgrad._errors import InvalidInput
from nestgrad._problem import BilevelProblem, WeightUpdate
from nestgrad._tuners.one_pass import check_every, check_spaces, require_weight_update


class RealTimeState(TypedDict):
    """A plain tree: all there is to know to go on with a run.

    As OnePassState, with `sensitivities`: an array (m, size of s), row j the derivative of s, flattened in order, in
    the j-th hyperparameter entry's natural value; and events, where there is a guard.
    """

    params: Any
    opt_state: Any
    hparams: Any
    outer_opt_state: Any
    sensitivities: Any
    step: Any
    buffers: Any
    events: NotRequired[Any]


def check_real_time(problem: BilevelProblem, hparams: Any, every: int, decay: float) -> WeightUpdate:
    """The weight update, once it is checked that the tuner can be built; else InvalidInput, UnsupportedSpec."""
    update = require_weight_update("RealTime", problem.inner)
    check_every("RealTime", every)
    check_spaces("RealTime", hparams)
    number = isinstance(decay, (int, float)) and not isinstance(decay, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not number or not math.isfinite(decay) or not 0.0 <= decay <= 1.0:
        raise InvalidInput(f"RealTime.decay: got {decay!r}, limit: 0 to 1. Remedy: pass 1.0 for the whole past.")
    return update

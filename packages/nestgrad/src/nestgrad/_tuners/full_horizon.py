"""Full-horizon tuning: whole runs from the same weights, the hyperparameters moving between them.

With T = method.num_steps and t counting training steps from 1, before step t where t - 1 is a positive multiple of T
the next run begins: params ← those given to `init`, and the optimizer state ← that of optimizer(λ).init(params), unless
stale_state keeps that of the run before. Each step is a weight step. When T divides t, the hypergradient is `Unrolled`
along this run's T steps and their batches, on that step's outer batch; the outer optimizer moves the leaves as in
OnePass. So after the last step of a run the state holds the trained weights.

Its steps are OnePass's with every=T and this method. The released code of Clarke et al. 2022 (app. B.7) keeps the
momentum of the run before: stale_state=True. (Maclaurin et al. 2015; Franceschi et al. 2017, alg. 1.)
"""

from __future__ import annotations

from typing import Any

from nestgrad._errors import UnsupportedSpec
from nestgrad._methods.unrolled import Unrolled
from nestgrad._tuners.one_pass import OnePassState


class FullHorizonState(OnePassState):
    """As OnePassState, with `initial`: the params that every run starts from."""

    initial: Any


def check_full_horizon(method: Any) -> Unrolled:
    """The method, once it is checked that it unrolls; else UnsupportedSpec."""
    if not isinstance(method, Unrolled):
        raise UnsupportedSpec(
            f"FullHorizon.method: got {method!r}, limit: Unrolled. Remedy: pass Unrolled(num_steps=T), T the length of "
            "a run, or use OnePass."
        )
    return method


def begins_run(step: int, horizon: int) -> bool:
    """Whether the step after `step` training steps is the first of a run that is not the first."""
    return step > 0 and step % horizon == 0

"""Full-horizon tuning in JAX."""

from __future__ import annotations

from typing import Any, cast

import jax

from nestgrad import (
    BilevelProblem,
    FullHorizonState,
    Guard,
    OnePassInfo,
    Unrolled,
    begins_run,
    check_full_horizon,
)
from nestgrad_jax._tree import is_traced
from nestgrad_jax.tuners.one_pass import OnePass


class FullHorizon(OnePass):
    """Whole runs from the same weights, hparams moving between them; nestgrad._tuners.full_horizon defines each step.

    Arguments as in OnePass, method.num_steps being the length of a run; stale_state keeps the optimizer's state over
    the ends of runs. `step` is driven from Python, as OnePass's with Unrolled.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        method: Unrolled,
        outer_optimizer: Any,
        stale_state: bool = False,
        guard: Guard | None = None,
        throw: bool = True,
    ) -> None:
        super().__init__(
            problem,
            hparams=hparams,
            every=check_full_horizon(method).num_steps,
            method=method,
            outer_optimizer=outer_optimizer,
            guard=guard,
            throw=throw,
        )
        self.method: Unrolled = method
        self.stale_state = stale_state
        self._fresh_jitted = jax.jit(self.pure.fresh)

    def init(self, params: Any) -> FullHorizonState:
        """The state before the first step."""
        state = super().init(params)
        return cast("FullHorizonState", {**state, "initial": state["params"]})

    def _stepped(self, state: Any, inner_batch: Any, outer_batch: Any) -> tuple[Any, OnePassInfo]:
        """`step`, with JAX's errors as they are."""
        if not is_traced(state["step"]):
            state = begun(self, state, self._recall.count(state["step"]), self._fresh_jitted)
        return super()._stepped(state, inner_batch, outer_batch)


def begun(tuner: FullHorizon, state: Any, count: int, fresh: Any) -> Any:
    """The state as a run begins, where one does; fresh(leaves, params) is its optimizer state."""
    if not begins_run(count, tuner.method.num_steps):
        return state
    state = {**state, "params": state["initial"]}
    return state if tuner.stale_state else {**state, "opt_state": fresh(state["hparams"], state["params"])}

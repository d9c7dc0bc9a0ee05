"""Full-horizon tuning by dense float64 algebra."""

from __future__ import annotations

from typing import Any, cast

from nestgrad import (
    BilevelProblem,
    FullHorizonState,
    Guard,
    OnePassInfo,
    Unrolled,
    begins_run,
    check_full_horizon,
)
from nestgrad_reference._checks import functional_optimizer
from nestgrad_reference.tuners.one_pass import OnePass


class FullHorizon(OnePass):
    """Whole runs from the same weights, hparams moving between them; nestgrad._tuners.full_horizon defines each step.

    Arguments as in OnePass, method.num_steps being the length of a run; stale_state keeps the optimizer's state over
    the ends of runs.
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

    def init(self, params: Any) -> FullHorizonState:
        """The state before the first step."""
        state = super().init(params)
        return cast("FullHorizonState", {**state, "initial": state["params"]})

    def step(self, state: Any, inner_batch: Any, outer_batch: Any) -> tuple[Any, OnePassInfo]:
        """One training step, and a hyper step at the end of a run; the state passed in is not changed."""
        if begins_run(state["step"], self.method.num_steps):
            state = {**state, "params": state["initial"]}
            if not self.stale_state:
                rule = functional_optimizer(self._update, self.values(state))
                state = {**state, "opt_state": rule.init(state["params"])}
        return super().step(state, inner_batch, outer_batch)

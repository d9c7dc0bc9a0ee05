"""Full-horizon tuning in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from nestgrad import BilevelProblem, FullHorizonState, Guard, OnePassState, Unrolled, begins_run, check_full_horizon
from nestgrad_torch._derivatives import functional_optimizer
from nestgrad_torch.tuners.one_pass import OnePass


class FullHorizon(OnePass):
    """Whole runs from the same weights, hparams moving between them; nestgrad._tuners.full_horizon defines each step.

    Arguments as in OnePass, method.num_steps being the length of a run; stale_state keeps the optimizer's state over
    the ends of runs. A module's buffers begin each run as they were given too (state["initial_buffers"]).
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        method: Unrolled,
        outer_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
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
        self.stale_state = stale_state

    def init(self, params: Any) -> FullHorizonState:
        """The state before the first step. params: a tree of tensors or an nn.Module; its values are copied."""
        state = super().init(params)
        buffers = {"initial_buffers": state["buffers"]} if state["buffers"] else {}
        return cast("FullHorizonState", {**state, "initial": state["params"], **buffers})

    def _advanced(self, state: OnePassState, batches: list[Any], outer_batch: Any) -> Any:
        return super()._advanced(self.begun(state), batches, outer_batch)

    @torch.no_grad()
    def begun(self, state: Any, fresh: Callable[[Any], Any] | None = None) -> Any:
        """The state as its next step enters it: that of a new run where the last one has ended.

        fresh: the optimizer state to begin with, from a state; that of the optimizer's `init` when None.
        """
        if not begins_run(state["step"], cast("int", self.every)):
            return state
        state = {**state, "params": state["initial"], "buffers": state.get("initial_buffers", state["buffers"])}
        if self.stale_state:
            return state
        if fresh is not None:
            return {**state, "opt_state": fresh(state)}
        rule = functional_optimizer(self._update, self.values(state))
        return {**state, "opt_state": rule.init(state["params"])}

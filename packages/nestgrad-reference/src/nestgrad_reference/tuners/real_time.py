"""Real-time forward mode by dense float64 algebra."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import (
    BilevelProblem,
    Event,
    Guard,
    HyperGradient,
    OnePassInfo,
    RealTimeState,
    Stats,
    Status,
    Watch,
    check_guard,
    check_real_time,
    map_spaces,
)
from nestgrad_reference._carry import Carried
from nestgrad_reference._checks import functional_optimizer
from nestgrad_reference._connected import require_connected
from nestgrad_reference._derivatives import outer_gradients
from nestgrad_reference._solvers._common import EPS
from nestgrad_reference._space_ops import slope
from nestgrad_reference._trajectory import advance, derivatives, distance
from nestgrad_reference._tree import as_params, check_matching, flatten
from nestgrad_reference.tuners._common import (
    hyper_step,
    idle,
    in_leaves,
    initial_leaves,
    loss_and_gradient,
    natural_values,
    no_events,
    norm,
    require_outer_optimizer,
)


class RealTime:
    """Tune hparams by sensitivities carried along the run (Franceschi et al. 2017, Donini et al. 2020).

    nestgrad._tuners.real_time defines each step; outer_optimizer is a functional rule.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        every: int,
        decay: float,
        outer_optimizer: Any,
        guard: Guard | None = None,
        throw: bool = True,
    ) -> None:
        self.inner = check_real_time(problem, hparams, every, decay)
        check_guard("RealTime", guard)
        self.problem, self.spaces, self.every, self.decay = problem, hparams, every, decay
        self.outer_optimizer, self.guard, self.throw = outer_optimizer, guard, throw
        self._watch = Watch()
        require_outer_optimizer("RealTime", outer_optimizer)

    def init(self, params: Any) -> RealTimeState:
        """The state before the first step."""
        weights = as_params(params)
        initial, leaves = initial_leaves(self.spaces)
        opt_state = functional_optimizer(self.inner, initial).init(weights)
        size = Carried(weights, opt_state, whole=True).vector.size
        state: RealTimeState = {
            "params": weights,
            "opt_state": opt_state,
            "hparams": leaves,
            "outer_opt_state": self.outer_optimizer.init(leaves),
            "sensitivities": np.zeros((flatten(initial)[0].size, size)),
            "step": 0,
            "buffers": {},
        }
        if self.guard is not None:
            state["events"] = no_events()
        return state

    def step(self, state: RealTimeState, inner_batch: Any, outer_batch: Any) -> tuple[RealTimeState, OnePassInfo]:
        """One training step, and a hyper step when `every` divides the count; the state passed in is not changed."""
        check_matching(state["params"], inner_batch=inner_batch, outer_batch=outer_batch)
        values = self.values(state)
        loss, _ = loss_and_gradient(self.inner, state["params"], values, inner_batch)
        before = Carried(state["params"], state["opt_state"], whole=True)
        A, B = derivatives(self.inner, before, values, inner_batch)
        reached = advance(self.inner, before, values, inner_batch)
        after: RealTimeState = {
            **state,
            "params": reached.params,
            "opt_state": reached.opt_state,
            "sensitivities": (self.decay * A @ state["sensitivities"].T + B).T,
            "step": state["step"] + 1,
        }
        tuned, found, event = after["step"] % self.every == 0, idle(state["hparams"]), Event.NONE
        if tuned:
            require_connected(
                self.problem,
                state["params"],
                values,
                inner_batch=inner_batch,
                outer_batch=outer_batch,
                opt_state=state["opt_state"],
            )
            found = self._hypergradient(after, values, outer_batch, distance(before, reached))
            event = hyper_step(self, found, state, after, failing=self, watch=self._watch)
        hparams = self.values(after)
        return after, OnePassInfo(
            inner_loss=np.asarray(loss), tuned=tuned, hypergradient=found, hparams=hparams, event=event
        )

    def values(self, state: RealTimeState) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return natural_values(self.spaces, state["hparams"])

    def __repr__(self) -> str:
        return f"RealTime(every={self.every}, decay={self.decay})"

    def _hypergradient(self, after: RealTimeState, values: Any, batch: Any, moved: float) -> HyperGradient:
        """∂L_out/∂λ + Zᵀ ∂L_out/∂s in the leaves."""
        loss, v, direct = outer_gradients(self.problem.outer_loss, after["params"], values, batch)
        indirect = after["sensitivities"][:, : v.size] @ v
        stats = Stats(
            rhs_norm=float(np.linalg.norm(v)),
            indirect_norm=float(np.linalg.norm(indirect)),
            params_norm=norm(after["params"]),
            inner_optimality=moved,
            steps=after["step"],
            eps=EPS,
        )
        finite = np.isfinite([loss, *direct, *indirect]).all()
        _, restore = flatten(values)
        natural = HyperGradient(
            total=restore(direct + indirect),
            direct=restore(direct),
            indirect=restore(indirect),
            outer_loss=np.asarray(loss),
            status=Status.TRUNCATED if finite else Status.NONFINITE,
            stats=stats,
        )
        return in_leaves(natural, map_spaces(slope, self.spaces, values))

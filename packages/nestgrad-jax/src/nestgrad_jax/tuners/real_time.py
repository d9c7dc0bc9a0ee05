"""Real-time forward mode in JAX."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from nestgrad import (
    BilevelProblem,
    Event,
    Guard,
    HyperGradient,
    OnePassInfo,
    RealTimeState,
    Status,
    Watch,
    check_guard,
    check_real_time,
    error_for,
)
from nestgrad_jax._connected import reached, require_connected
from nestgrad_jax._derivatives import Outer, floating_leaves, outer_gradients
from nestgrad_jax._rules._common import stats_of, truncated
from nestgrad_jax._rules._steps import Steps
from nestgrad_jax._rules.implicit import idle
from nestgrad_jax._slopes import scalar_loss
from nestgrad_jax._tree import check_arguments, check_matching, flat, host_norm, is_traced, tree_norm
from nestgrad_jax.tuners._leaves import is_finite, natural, require_outer_optimizer, start
from nestgrad_jax.tuners._outer_step import no_event, no_events, outer_step
from nestgrad_jax.tuners._recall import Recall


class RealTime:
    """Tune hparams by sensitivities carried along the run (Franceschi et al. 2017, Donini et al. 2020).

    nestgrad._tuners.real_time defines each step. problem: its inner problem is a WeightUpdate. hparams: a tree of
    spaces. every: training steps per hyper step. decay: μ. outer_optimizer: any optax transformation. guard: see
    Guard. throw: raise NonFinite when a hypergradient is not finite and there is no guard; under a user's own jit its
    status says so.

    `step` is pure and jitted, and may be the body of a lax.scan.
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
        require_outer_optimizer("RealTime", outer_optimizer)
        self.problem, self.spaces, self.every, self.decay = problem, hparams, every, decay
        check_guard("RealTime", guard)
        self.outer_optimizer, self.guard, self.throw = outer_optimizer, guard, throw
        self._recall, self._watch = Recall(lambda leaves: natural(hparams, leaves)), Watch()
        self._jitted = jax.jit(self._step)

    def __repr__(self) -> str:
        return f"RealTime(every={self.every}, decay={self.decay})"

    def init(self, params: Any) -> RealTimeState:
        """The state before the first step. params: a pytree of floating arrays, copied."""
        weights, values, leaves = start(self.spaces, params)
        weights, opt_state = Steps(self.inner).start(weights, values, None)
        size = flat((weights, floating_leaves(opt_state)[0])).size
        entries = flat(values)
        state: RealTimeState = {
            "params": weights,
            "opt_state": opt_state,
            "hparams": leaves,
            "outer_opt_state": self.outer_optimizer.init(leaves),
            "sensitivities": jnp.zeros((entries.size, size), entries.dtype),
            "step": jnp.zeros((), jnp.int32),
            "buffers": {},
        }
        if self.guard is not None:
            state["events"] = no_events()
        return state

    def step(self, state: RealTimeState, inner_batch: Any, outer_batch: Any) -> tuple[RealTimeState, OnePassInfo]:
        """One training step, and a hyper step when `every` divides the count; the state passed in is not changed."""
        check_arguments(inner_batch=inner_batch, outer_batch=outer_batch)
        after, info = self._jitted(state, inner_batch, outer_batch)
        if is_traced((after, info)):
            return after, info
        count = self._recall.count(state["step"]) + 1
        self._recall.keep_count(after["step"], count)
        tuned = count % self.every == 0
        if not tuned:
            nothing = replace(info.hypergradient, status=Status.IDLE)
            return after, replace(info, tuned=False, hypergradient=nothing, event=Event.NONE)
        found: HyperGradient = replace(info.hypergradient, status=Status(int(info.hypergradient.status)))
        if self.guard is None:
            if self.throw and not found.status.ok and not is_finite(found):
                raise error_for(found.status, self, found.stats, where=f"training step {count}")
            self._watch.see(host_norm(found.total), step=count)
        return after, replace(info, tuned=True, hypergradient=found, event=Event(int(info.event)))

    def values(self, state: RealTimeState) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return self._recall.about(state["hparams"])[0]

    def _step(self, state: RealTimeState, inner_batch: Any, outer_batch: Any) -> tuple[RealTimeState, OnePassInfo]:
        leaves = state["hparams"]
        check_matching(state["params"], hparams=leaves, inner_batch=inner_batch, outer_batch=outer_batch)
        values = natural(self.spaces, leaves)
        before = (state["params"], state["opt_state"])
        loss = scalar_loss(self.inner.loss, "inner loss")(state["params"], values, inner_batch)
        (params, opt_state), tangent = Steps(self.inner).push(before, values, inner_batch)
        sensitivities = self._pushed(state["sensitivities"], before, values, tangent)
        moved = tree_norm(jax.tree.map(jnp.subtract, params, state["params"]))
        outer = outer_gradients(self.problem.outer_loss, params, values, outer_batch)
        self._check_connected(before, values, inner_batch, outer)

        def tune() -> tuple[Any, Array, HyperGradient]:
            found = self._hypergradient(outer, sensitivities, leaves, params, moved, state["step"] + 1)
            entries, event = outer_step(
                self.spaces, self.outer_optimizer, self.guard, found.total, found.outer_loss, state
            )
            return entries, no_event() if event is None else event, found

        moving = {name: part for name, part in state.items() if name in ("hparams", "outer_opt_state", "events")}
        due = (state["step"] + 1) % self.every == 0
        entries, event, found = lax.cond(due, tune, lambda: (moving, no_event(), idle(leaves)))
        after: Any = {
            **state,
            **entries,
            "params": params,
            "opt_state": opt_state,
            "sensitivities": sensitivities,
            "step": state["step"] + 1,
        }
        now = natural(self.spaces, after["hparams"])
        return after, OnePassInfo(inner_loss=loss, tuned=due, hypergradient=found, hparams=now, event=event)

    def _pushed(self, rows: Array, before: Any, values: Any, tangent: Any) -> Array:
        """μ (∂Φ/∂s) Z + ∂Φ/∂λ, row by row."""
        _, split = ravel_pytree((before[0], floating_leaves(before[1])[0]))
        entries, restore = ravel_pytree(values)

        def row(z: Array, direction: Array) -> Array:
            return flat(tangent(*split(self.decay * z), restore(direction)))

        return jax.vmap(row)(rows, jnp.eye(entries.size, dtype=entries.dtype))

    def _hypergradient(
        self, outer: Outer, rows: Array, leaves: Any, params: Any, moved: Array, count: Array
    ) -> HyperGradient:
        """∂L_out/∂λ + Zᵀ ∂L_out/∂s in the leaves."""
        by_params, direct = outer.pull(jnp.ones_like(outer.loss))
        vector = flat(by_params)
        values, chain = jax.vjp(lambda x: natural(self.spaces, x), leaves)
        _, restore = ravel_pytree(values)
        indirect = restore(jnp.matmul(rows[:, : vector.size], vector, precision=lax.Precision.HIGHEST))
        (direct,), (indirect,) = chain(direct), chain(indirect)
        stats = stats_of(params, indirect, rhs_norm=tree_norm(by_params), inner_optimality=moved, steps=count)
        return truncated(direct=direct, indirect=indirect, outer_loss=outer.loss, stats=stats)

    def _check_connected(self, before: Any, values: Any, batch: Any, outer: Outer) -> None:
        vector, restore = ravel_pytree((before[0], floating_leaves(before[1])[0]))
        pull = Steps(self.inner).linearized(before, values, batch)[1]
        one = jnp.ones_like(outer.loss)
        require_connected(
            values, reached(lambda x: outer.pull(x)[1], one), reached(lambda a: pull(*restore(a))[2], vector)
        )

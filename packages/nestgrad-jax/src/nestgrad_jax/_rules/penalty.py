"""Penalty: ∂_λ L_out(y) + σ [∂_λ L_in(y) - ∂_λ L_in(w)], y near argmin L_out + σ L_in."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from nestgrad import BilevelProblem, HyperGradient, Penalty
from nestgrad_jax._rules._common import METHODS, Call, stats_of, truncated
from nestgrad_jax._rules._difference import along, inner_gradients, outer_parts
from nestgrad_jax._slopes import scalar_loss
from nestgrad_jax._tree import tree_norm


@METHODS.register(Penalty)
def penalty(spec: Penalty, problem: BilevelProblem, call: Call) -> HyperGradient:
    """num_steps gradients of both losses; no second derivative."""
    outer_loss = scalar_loss(problem.outer_loss, "outer_loss")
    level: Any = problem.inner  # a Minimize, as the table of legal pairs has it
    inner_loss = scalar_loss(level.loss, "inner loss")

    def step(y: Any, _: None) -> tuple[Any, None]:
        first = jax.grad(outer_loss)(y, call.hparams, call.outer_batch)
        second = jax.grad(inner_loss)(y, call.hparams, call.inner_batch)
        joint = jax.tree.map(lambda a, b: a + spec.multiplier * b, first, second)
        return along(y, -spec.step_size, joint), None

    y, _ = lax.scan(step, call.params, length=spec.num_steps)
    loss, slope, direct = outer_parts(problem, y, call)
    _, grads, here = inner_gradients(problem, call.params, call)
    _, _, there = inner_gradients(problem, y, call)
    indirect = jax.tree.map(lambda a, b: spec.multiplier * (a - b), there, here)
    stats = stats_of(y, indirect, rhs_norm=tree_norm(slope), steps=spec.num_steps, inner_optimality=tree_norm(grads))
    return truncated(direct=direct, indirect=indirect, outer_loss=loss, stats=stats, params=y)

"""SAMA: identity inverse, preconditioned by the optimizer, with a central difference."""

from __future__ import annotations

from typing import Any

import jax

from nestgrad import SAMA, BilevelProblem, HyperGradient
from nestgrad_jax._derivatives import functional_optimizer
from nestgrad_jax._rules._common import METHODS, Call, negate, stats_of, truncated
from nestgrad_jax._rules._difference import inner_gradients, mixed_difference, outer_parts
from nestgrad_jax._tree import tree_norm


@METHODS.register(SAMA)
def sama(spec: SAMA, problem: BilevelProblem, call: Call) -> HyperGradient:
    """v = (∂u/∂g)ᵀ ∂L_out/∂w, u as a function of the gradient alone."""
    inner: Any = problem.inner  # a WeightUpdate, as the table of legal pairs has it
    _, grads, _ = inner_gradients(problem, call.params, call)
    loss, slope, direct = outer_parts(problem, call.params, call)
    rule = functional_optimizer(inner, call.hparams)
    state = rule.init(call.params) if call.opt_state is None else call.opt_state
    updates, pull = jax.vjp(lambda g: rule.update(g, state, call.params)[0], grads)
    (v,) = pull(negate(slope))
    indirect = negate(mixed_difference(problem, call.params, call, v, spec.radius))
    stats = stats_of(call.params, indirect, v, rhs_norm=tree_norm(slope), steps=1, inner_optimality=tree_norm(updates))
    return truncated(direct=direct, indirect=indirect, outer_loss=loss, stats=stats, adjoint=v)

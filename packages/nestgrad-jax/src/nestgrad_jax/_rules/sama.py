"""SAMA: identity inverse, preconditioned by the optimizer, with a central difference."""

from __future__ import annotations

from typing import Any

import jax
from jax.flatten_util import ravel_pytree

from nestgrad import SAMA, BilevelProblem, HyperGradient
from nestgrad_jax._connected import reached
from nestgrad_jax._derivatives import functional_optimizer
from nestgrad_jax._rules._common import METHODS, Call, negate, stats_of, truncated
from nestgrad_jax._rules._difference import inner_gradients, mixed_difference, outer_parts
from nestgrad_jax._tree import tree_norm


@METHODS.register(SAMA)
def sama(spec: SAMA, problem: BilevelProblem, call: Call) -> HyperGradient:
    """v = (∂u/∂g)ᵀ ∂L_out/∂w, u as a function of the gradient alone."""
    inner: Any = problem.inner  # a WeightUpdate, as the table of legal pairs has it
    _, grads, _ = inner_gradients(problem, call.params, call)
    loss, slope, direct = outer_parts(problem, call.params, call, through_optimizer(problem, call, grads))
    rule = functional_optimizer(inner, call.hparams)
    state = rule.init(call.params) if call.opt_state is None else call.opt_state
    updates, pull = jax.vjp(lambda g: rule.update(g, state, call.params)[0], grads)
    (v,) = pull(negate(slope))
    indirect = negate(mixed_difference(problem, call.params, call, v, spec.radius))
    stats = stats_of(call.params, indirect, v, rhs_norm=tree_norm(slope), steps=1, inner_optimality=tree_norm(updates))
    return truncated(direct=direct, indirect=indirect, outer_loss=loss, stats=stats, adjoint=v)


def through_optimizer(problem: BilevelProblem, call: Call, grads: Any) -> list[bool]:
    """Which hyperparameters the weight update depends on: their part is left out by definition, and is no mistake."""
    inner: Any = problem.inner
    state = call.opt_state
    if state is None:
        state = functional_optimizer(inner, call.hparams).init(call.params)

    def updates(hparams: Any) -> Any:
        return functional_optimizer(inner, hparams).update(grads, state, call.params)[0]

    _, pull = jax.vjp(updates, call.hparams)
    vector, restore = ravel_pytree(call.params)
    return reached(lambda x: pull(restore(x))[0], vector)

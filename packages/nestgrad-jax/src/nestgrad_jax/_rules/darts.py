"""DARTS: one virtual step, its mixed product by a central difference."""

from __future__ import annotations

import jax

from nestgrad import DARTS, BilevelProblem, HyperGradient
from nestgrad_jax._rules._common import METHODS, Call, stats_of, truncated
from nestgrad_jax._rules._difference import along, inner_gradients, mixed_difference, outer_parts
from nestgrad_jax._tree import tree_norm


@METHODS.register(DARTS)
def darts(spec: DARTS, problem: BilevelProblem, call: Call) -> HyperGradient:
    """Three gradients of the inner loss and one of the outer."""
    _, grads, _ = inner_gradients(problem, call.params, call)
    moved = along(call.params, -spec.step_size, grads)
    loss, v, direct = outer_parts(problem, moved, call)
    mixed = mixed_difference(problem, call.params, call, v, spec.radius)
    indirect = jax.tree.map(lambda x: -spec.step_size * x, mixed)
    size = tree_norm(v)
    stats = stats_of(moved, indirect, v, rhs_norm=size, steps=1, inner_optimality=tree_norm(grads))
    return truncated(direct=direct, indirect=indirect, outer_loss=loss, stats=stats, adjoint=v, params=moved)

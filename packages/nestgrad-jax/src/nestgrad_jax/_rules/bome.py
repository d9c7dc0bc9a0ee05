"""BOME: the dynamic barrier of the value function."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from nestgrad import BOME, BilevelProblem, HyperGradient
from nestgrad_jax._rules._common import METHODS, Call, stats_of, truncated
from nestgrad_jax._rules._difference import along, inner_gradients, outer_parts
from nestgrad_jax._tree import dot, flat, power_of_two, tree_norm


@METHODS.register(BOME)
def bome(spec: BOME, problem: BilevelProblem, call: Call) -> HyperGradient:
    """μ = max(0, control · φ - ⟨∇L_out, ∇q⟩) / |∇q|², by numbers near 1."""

    def step(w: Any, _: None) -> tuple[Any, None]:
        return along(w, -spec.step_size, inner_gradients(problem, w, call)[1]), None

    ahead, _ = lax.scan(step, call.params, length=spec.num_steps)
    value, grads, here = inner_gradients(problem, call.params, call)
    lower, _, there = inner_gradients(problem, ahead, call)
    loss, slope, direct = outer_parts(problem, call.params, call)
    part = jax.tree.map(jnp.subtract, here, there)
    gap, front = flat((grads, part)), flat((slope, direct))
    scale = power_of_two(jnp.abs(gap).max())
    unit = gap / scale
    squared = dot(unit, unit)
    safe = jnp.where(squared > 0, squared, jnp.ones_like(squared))
    # control · φ / |∇q|² is control itself for φ = |∇q|²
    aim = spec.control if spec.barrier == "norm" else spec.control * (value - lower) / safe / scale / scale
    mu = jnp.where(squared > 0, jnp.maximum(aim - dot(front, unit) / safe / scale, 0.0), jnp.zeros_like(squared))
    indirect = jax.tree.map(lambda x: mu * x, part)
    adjoint = jax.tree.map(lambda a, b: a + mu * b, slope, grads)
    stats = stats_of(
        call.params,
        indirect,
        adjoint,
        rhs_norm=tree_norm(slope),
        steps=spec.num_steps,
        inner_optimality=tree_norm(grads),
    )
    return truncated(direct=direct, indirect=indirect, outer_loss=loss, stats=stats, adjoint=adjoint, params=ahead)

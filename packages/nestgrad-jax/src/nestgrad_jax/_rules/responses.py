"""The hypergradient through a learned response: ∂L_out/∂λ + (∂w_φ/∂λ)ᵀ ∂L_out/∂w."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import jax

from nestgrad import BilevelProblem, HyperGradient, Response
from nestgrad_jax._responses import responded
from nestgrad_jax._rules._common import METHODS, Call, stats_of, truncated
from nestgrad_jax._rules._difference import inner_gradients, outer_parts
from nestgrad_jax._tree import tree_norms


def by_response(spec: Response, problem: BilevelProblem, call: Call) -> HyperGradient:
    """One gradient of each loss at w_φ(λ), and one pull-back of the response; call.params is φ."""
    weights, pull = jax.vjp(lambda hparams: responded(spec, call.params, hparams), call.hparams)
    there = replace(call, params=weights)
    _, grads, _ = inner_gradients(problem, weights, there)
    loss, v, direct = outer_parts(problem, weights, there)
    (indirect,) = pull(v)
    size, optimality = tree_norms(v, grads)
    stats = stats_of(weights, indirect, rhs_norm=size, adjoint_norm=size, inner_optimality=optimality)
    return truncated(direct=direct, indirect=indirect, outer_loss=loss, stats=stats, adjoint=v, params=weights)


for _kind in get_args(Response):
    METHODS.register(_kind)(by_response)

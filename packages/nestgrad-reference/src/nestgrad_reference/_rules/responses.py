"""Learned responses: ∂L_out/∂λ + (∂w_φ/∂λ)ᵀ ∂L_out/∂w, the response Jacobian by its formula."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from nestgrad import FactorisedResponse, GatedResponse, HyperGradient, LinearResponse, MLPResponse
from nestgrad_reference._derivatives import outer_gradients
from nestgrad_reference._responses import jacobian, joined, parted, require_fitting, weights_at
from nestgrad_reference._rules._common import METHODS, Call, Outcome, finish
from nestgrad_reference._tree import flatten


def of_call(spec: Any, call: Call) -> HyperGradient:
    """The rule of the method table: params of the call are φ."""
    lam = joined(call.hparams)
    require_fitting(spec, call.params, lam.size)
    weights = weights_at(spec, call.params, lam)
    return through(spec, dataclasses.replace(call, params=weights), jacobian(spec, call.params, lam))


for _kind in (LinearResponse, FactorisedResponse, MLPResponse, GatedResponse):
    METHODS.register(_kind)(of_call)


def through(spec: Any, call: Call, response_jacobian: np.ndarray) -> HyperGradient:
    """The hypergradient at call.params through a response Jacobian whose columns are in λ's order."""
    call.require_connected()
    problem = call.problem
    loss, v, direct = outer_gradients(problem.outer_loss, call.params, call.hparams, call.outer_batch)
    _, slope, _ = outer_gradients(problem.inner.loss, call.params, call.hparams, call.inner_batch, "inner loss")
    indirect, _ = flatten(parted(call.hparams, response_jacobian.T @ v))
    w, _ = flatten(call.params)
    found = Outcome(
        loss=loss,
        direct=direct,
        indirect=indirect,
        w=w,
        slope=v,
        adjoint=v,
        optimality=float(np.linalg.norm(slope)),
    )
    return finish(spec, call, found, params=call.params)

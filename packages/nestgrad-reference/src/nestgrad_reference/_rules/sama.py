"""SAMA: the optimizer's derivative in the gradient in place of the inverse, and a central difference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import autograd
import numpy as np

from nestgrad import SAMA, HyperGradient, Minimize
from nestgrad_reference._carry import carried
from nestgrad_reference._derivatives import independence_is_no_news, loss_gradient, outer_gradients, weight_update
from nestgrad_reference._rules._common import METHODS, Call, Outcome, finish
from nestgrad_reference._rules._difference import mixed_product
from nestgrad_reference._tree import flatten


@METHODS.register(SAMA)
def sama(spec: SAMA, call: Call) -> HyperGradient:
    """v = (∂u/∂g)ᵀ ∂L_out/∂w, the Jacobian dense."""
    inner: Any = call.problem.inner
    replace(call, problem=replace(call.problem, inner=Minimize(inner.loss))).require_connected()
    w, _ = flatten(call.params)
    state = carried(inner, call.params, call.hparams, call.opt_state, whole=False).opt_state
    loss, slope, direct = outer_gradients(call.problem.outer_loss, call.params, call.hparams, call.outer_batch)
    g, update = loss_gradient(inner, call.params, call.inner_batch)(w, call.hparams), weight_update(inner, call.params)
    with independence_is_no_news():
        jacobian = autograd.jacobian(lambda x: update(x, w, state, call.hparams)[0])(g)  # pyright: ignore[reportCallIssue]
    jacobian = np.asarray(jacobian).reshape(w.size, w.size)
    v = jacobian.T @ slope
    found = Outcome(
        loss=loss,
        direct=direct,
        indirect=-mixed_product(call, v, spec.radius),
        w=w,
        slope=slope,
        adjoint=v,
        optimality=float(np.linalg.norm(update(g, w, state, call.hparams)[0])),
        steps=1,
    )
    return finish(spec, call, found)

"""Penalty: the difference of two first derivatives, at the penalised weights and at those given."""

from __future__ import annotations

import numpy as np

from nestgrad import HyperGradient, Penalty
from nestgrad_reference._derivatives import outer_gradients
from nestgrad_reference._rules._common import METHODS, Call, Outcome, finish
from nestgrad_reference._tree import Vector, flatten


@METHODS.register(Penalty)
def penalty(spec: Penalty, call: Call) -> HyperGradient:
    """∂_λL_out(y) + σ[∂_λL_in(y) - ∂_λL_in(w)], y by descent on L_out + σL_in from w."""
    call.require_connected()
    problem, (w, restore) = call.problem, flatten(call.params)

    def outer(x: Vector) -> tuple[float, Vector, Vector]:
        return outer_gradients(problem.outer_loss, restore(x), call.hparams, call.outer_batch)

    def inner(x: Vector) -> tuple[float, Vector, Vector]:
        return outer_gradients(problem.inner.loss, restore(x), call.hparams, call.inner_batch, "inner loss")

    y = w
    for _ in range(spec.num_steps):
        y = y - spec.step_size * (outer(y)[1] + spec.multiplier * inner(y)[1])
    loss, slope, direct = outer(y)
    _, here, by_hparams = inner(w)
    found = Outcome(
        loss=loss,
        direct=direct,
        indirect=spec.multiplier * (inner(y)[2] - by_hparams),
        w=y,
        slope=slope,
        optimality=float(np.linalg.norm(here)),
        steps=spec.num_steps,
    )
    return finish(spec, call, found, params=restore(y))

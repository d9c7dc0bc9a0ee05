"""BOME: the outer gradient, turned so that the gap of the value function closes."""

from __future__ import annotations

import numpy as np

from nestgrad import BOME, HyperGradient
from nestgrad_reference._derivatives import outer_gradients
from nestgrad_reference._rules._common import METHODS, Call, Outcome, finish
from nestgrad_reference._tree import Vector, flatten


@METHODS.register(BOME)
def bome(spec: BOME, call: Call) -> HyperGradient:
    """δ = ∇L_out + μ∇q over (w, λ), μ = max(0, control · φ - ⟨∇L_out, ∇q⟩) / |∇q|²."""
    call.require_connected()
    problem, (w, restore) = call.problem, flatten(call.params)

    def inner(x: Vector) -> tuple[float, Vector, Vector]:
        return outer_gradients(problem.inner.loss, restore(x), call.hparams, call.inner_batch, "inner loss")

    ahead = w
    for _ in range(spec.num_steps):
        ahead = ahead - spec.step_size * inner(ahead)[1]
    loss, slope, direct = outer_gradients(problem.outer_loss, call.params, call.hparams, call.outer_batch)
    value, by_params, by_hparams = inner(w)
    lower, _, there = inner(ahead)
    gap, part = np.concatenate([by_params, by_hparams - there]), by_hparams - there
    squared, across = float(gap @ gap), float(slope @ by_params + direct @ part)
    aim = squared if spec.barrier == "norm" else value - lower
    mu = float(np.maximum(0.0, spec.control * aim - across)) / squared if squared else 0.0  # max would drop a NaN
    found = Outcome(
        loss=loss,
        direct=direct,
        indirect=mu * part,
        w=w,
        slope=slope,
        adjoint=slope + mu * by_params,
        optimality=float(np.linalg.norm(by_params)),
        steps=spec.num_steps,
    )
    return finish(spec, call, found, params=restore(ahead))

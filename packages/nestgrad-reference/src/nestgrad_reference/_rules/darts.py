"""DARTS: one virtual step, and the mixed product by a central difference about the old weights."""

from __future__ import annotations

from nestgrad import DARTS, HyperGradient
from nestgrad_reference._derivatives import outer_gradients
from nestgrad_reference._rules._common import METHODS, Call, Outcome, finish
from nestgrad_reference._rules._difference import mixed_product
from nestgrad_reference._tree import flatten


@METHODS.register(DARTS)
def darts(spec: DARTS, call: Call) -> HyperGradient:
    """w' = w - ξ ∇L_in(w), v and direct at w', indirect = -ξ [∇_λL_in(w + εv) - ∇_λL_in(w - εv)] / 2ε."""
    call.require_connected()
    problem, (w, restore) = call.problem, flatten(call.params)
    _, slope, _ = outer_gradients(problem.inner.loss, call.params, call.hparams, call.inner_batch, "inner loss")
    moved = w - spec.step_size * slope
    loss, v, direct = outer_gradients(problem.outer_loss, restore(moved), call.hparams, call.outer_batch)
    found = Outcome(
        loss=loss,
        direct=direct,
        indirect=-spec.step_size * mixed_product(call, v, spec.radius),
        w=moved,
        slope=v,
        adjoint=v,
        optimality=float((slope @ slope) ** 0.5),
        steps=1,
    )
    return finish(spec, call, found, params=restore(moved))

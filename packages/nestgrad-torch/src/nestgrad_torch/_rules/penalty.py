"""Penalty: the difference of two first derivatives, at the penalised weights and at those given."""

from __future__ import annotations

from torch.linalg import vector_norm

from nestgrad import Penalty, tree
from nestgrad_torch._rules._call import METHODS, Call
from nestgrad_torch._rules._findings import Findings
from nestgrad_torch._rules._finish import Outcome, finish
from nestgrad_torch._rules._losses import Losses, difference, either, scaled
from nestgrad_torch._rules.implicit import require_connected


@METHODS.register(Penalty)
def penalty(spec: Penalty, call: Call) -> Findings:
    """∂_λL_out(y) + σ[∂_λL_in(y) - ∂_λL_in(w)], y by descent on L_out + σL_in from w."""
    losses = Losses(call)
    _, here, by_hparams = losses.inner(losses.weights)
    y = losses.weights
    for _ in range(spec.num_steps):
        slope = losses.outer(y)[1] + spec.multiplier * losses.inner(y)[1]
        y = y - spec.step_size * slope
    loss, slope, direct = losses.outer(y)
    require_connected(call.hparams, either(direct, by_hparams))
    found = Outcome(
        loss=loss,
        direct=direct,
        indirect=scaled(difference(losses.inner(y)[2], by_hparams), spec.multiplier),
        weights=y,
        slope=slope,
        optimality=vector_norm(here),
        steps=spec.num_steps,
    )
    return finish(call, found, params=tree.map(lambda x: x.clone(), call.point.plain(y)))

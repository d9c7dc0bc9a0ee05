"""DARTS: one virtual step, and the mixed product by a central difference about the old weights."""

from __future__ import annotations

from torch.linalg import vector_norm

from nestgrad import DARTS, tree
from nestgrad_torch._rules._call import METHODS, Call
from nestgrad_torch._rules._findings import Findings
from nestgrad_torch._rules._finish import Outcome, finish
from nestgrad_torch._rules._losses import Losses, either, scaled
from nestgrad_torch._rules.implicit import require_connected


@METHODS.register(DARTS)
def darts(spec: DARTS, call: Call) -> Findings:
    """w' = w - ξ ∇L_in(w), v and direct at w', indirect = -ξ [∇_λL_in(w + εv) - ∇_λL_in(w - εv)] / 2ε."""
    losses = Losses(call)
    _, slope, by_hparams = losses.inner(losses.weights)
    moved = losses.weights - spec.step_size * slope
    loss, v, direct = losses.outer(moved)
    require_connected(call.hparams, either(direct, by_hparams))
    found = Outcome(
        loss=loss,
        direct=direct,
        indirect=scaled(losses.mixed_product(v, spec.radius), -spec.step_size),
        weights=moved,
        slope=v,
        adjoint=v,
        optimality=vector_norm(slope),
        steps=1,
    )
    return finish(call, found, params=tree.map(lambda x: x.clone(), call.point.plain(moved)))

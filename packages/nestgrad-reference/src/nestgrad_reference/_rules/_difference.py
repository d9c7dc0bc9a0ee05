"""The central difference of ∇_λ L_in in the direction of an adjoint."""

from __future__ import annotations

import numpy as np

from nestgrad_reference._derivatives import outer_gradients
from nestgrad_reference._rules._common import Call
from nestgrad_reference._tree import Vector, flatten


def mixed_product(call: Call, v: Vector, radius: float) -> Vector:
    """[∇_λ L_in(w + εv) - ∇_λ L_in(w - εv)] / 2ε with ε = radius / |v|; 0 for a zero v."""
    w, restore = flatten(call.params)
    h, _ = flatten(call.hparams)
    size = float(np.linalg.norm(v))
    if size == 0.0:
        return np.zeros_like(h)
    step = radius / size
    ahead, behind = (
        outer_gradients(call.problem.inner.loss, restore(x), call.hparams, call.inner_batch, "inner loss")[2]
        for x in (w + step * v, w - step * v)
    )
    return (ahead - behind) / (2.0 * step)

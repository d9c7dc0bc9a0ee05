"""One Newton step of an inner problem."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestgrad import Implicit, UnsupportedSpec, WeightUpdate, require_legal, tree
from nestgrad_reference._derivatives import linearize
from nestgrad_reference._rules.implicit import extras_of, scale_of
from nestgrad_reference._solvers._common import SOLVERS
from nestgrad_reference._tree import as_hparams, as_params, check_matching


def newton_step(
    inner: Any, params: Any, hparams: Any, *, solver: Any, inner_batch: Any = None, opt_state: Any = None
) -> tuple[Any, float]:
    """(w - J⁻¹F with the solver in place of the inverse, |F| at the params given); NaN where the solver gives none.

    Not for a WeightUpdate, whose J has no inverse to speak of where the step has no fixed point.
    """
    if isinstance(inner, WeightUpdate):
        raise UnsupportedSpec(
            "newton_step on WeightUpdate, limit: Minimize, FixedPoint, Root, ProximalGradient. "
            "Remedy: pass Minimize(loss), whose root it is."
        )
    require_legal(inner, Implicit(solver=solver))
    weights, values = as_params(params), as_hparams(hparams)
    check_matching(params, hparams=hparams, inner_batch=inner_batch)
    point = linearize(inner, weights, values, inner_batch, opt_state)
    scale, extras = scale_of(point.residual), extras_of(point, None, None, None, forward=True)
    solve = SOLVERS(solver, point.jacobian, point.residual / scale, point.symmetric, scale, extras)
    moved = point.carried.as_tree(point.carried.vector - scale * solve.solution)
    same = tree.map(lambda old, new: np.asarray(new).astype(np.asarray(old).dtype), params, moved)
    return same, float(np.linalg.norm(point.residual))

"""The backend's two entry points: hypergradient and supports."""

from __future__ import annotations

from typing import Any

from nestgrad import BilevelProblem, HyperGradient, Implicit, Minimize, UnsupportedSpec, WeightUpdate
from nestgrad_reference._derivatives import linearize, outer_gradients, require_connected, residual
from nestgrad_reference._rules.implicit import implicit
from nestgrad_reference._solvers._common import SOLVERS
from nestgrad_reference._tree import as_hparams, as_params, check_matching, flatten


def hypergradient(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    method: Implicit,
    inner_batch: Any = None,
    outer_batch: Any = None,
    opt_state: Any = None,
    throw: bool = True,
) -> HyperGradient:
    """d outer_loss / d hparams at these params: total = direct - Bᵀp (see nestgrad.Implicit), in dense float64.

    Losses are written with autograd.numpy. Arguments, results and errors as in every backend.
    """
    if not isinstance(method, Implicit):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UnsupportedSpec(
            f"hypergradient: method {method!r}, limit: Implicit. Remedy: pass Implicit(solver=CG(...))."
        )
    weights, values = as_params(params), as_hparams(hparams)
    check_matching(params, hparams=hparams, inner_batch=inner_batch, outer_batch=outer_batch)
    w, _ = flatten(weights)
    point = linearize(problem.inner, weights, values, inner_batch, opt_state)
    function = residual(problem.inner, weights, values, inner_batch, opt_state)
    outer = outer_gradients(problem.outer_loss, weights, values, outer_batch)
    require_connected(lambda h: function(w, h), lambda h: problem.outer_loss(weights, h, outer_batch), values)
    return implicit(method, point, outer, values, throw=throw)


def supports(spec_type: type) -> bool:
    """Whether this backend has a rule for the spec type."""
    return spec_type in (Minimize, WeightUpdate, Implicit) or spec_type in SOLVERS

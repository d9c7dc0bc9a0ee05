"""The backend's entry points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nestgrad import INNERS, BilevelProblem, HyperGradient, Implicit, require_batches, require_legal
from nestgrad_reference._connected import require_connected
from nestgrad_reference._derivatives import linearize, outer_gradients
from nestgrad_reference._response import require_implicit
from nestgrad_reference._rules import bome, darts, penalty, pes, responses, sama, unrolled  # noqa: F401  (fills the table)
from nestgrad_reference._rules._common import METHODS, Call
from nestgrad_reference._rules.implicit import implicit
from nestgrad_reference._solvers._common import SOLVERS
from nestgrad_reference._tree import as_hparams, as_params, check_matching


def hypergradient(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    method: Any,
    inner_batch: Any = None,
    inner_batches: Any = None,
    outer_batch: Any = None,
    opt_state: Any = None,
    warm_start: Any = None,
    preconditioner: Any = None,
    key: Any = None,
    throw: bool = True,
) -> HyperGradient:
    """d outer_loss / d hparams by the method (see its spec), in dense float64.

    Losses are written with autograd.numpy; key is an int. Arguments, results and errors as in every backend.
    """
    require_legal(problem.inner, method, warm_start=warm_start, preconditioner=preconditioner, key=key)
    require_batches(method, inner_batch, inner_batches)
    weights, values = as_params(params), as_hparams(hparams)
    check_matching(
        params, hparams=hparams, inner_batch=inner_batch, inner_batches=inner_batches, outer_batch=outer_batch
    )
    if not isinstance(method, Implicit):
        call = Call(
            problem=problem,
            params=weights,
            hparams=values,
            inner_batch=inner_batch,
            inner_batches=inner_batches,
            outer_batch=outer_batch,
            opt_state=opt_state,
            key=key,
            throw=throw,
        )
        return METHODS(method, call)
    point = linearize(problem.inner, weights, values, inner_batch, opt_state)
    outer = outer_gradients(problem.outer_loss, weights, values, outer_batch)
    require_connected(problem, weights, values, inner_batch=inner_batch, outer_batch=outer_batch, opt_state=opt_state)
    return implicit(
        method, point, outer, values, throw=throw, warm_start=warm_start, preconditioner=preconditioner, key=key
    )


def hypergradients(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    method: Implicit,
    inner_batch: Any = None,
    outer_batches: Sequence[Any],
    opt_state: Any = None,
    key: Any = None,
    throw: bool = True,
) -> list[HyperGradient]:
    """The hypergradient on each outer batch, from one linearisation of the inner problem."""
    require_implicit("hypergradients", method)
    require_legal(problem.inner, method, key=key)
    weights, values, outer_batches = as_params(params), as_hparams(hparams), list(outer_batches)
    check_matching(params, hparams=hparams, inner_batch=inner_batch, outer_batches=outer_batches)
    point = linearize(problem.inner, weights, values, inner_batch, opt_state)
    found: list[HyperGradient] = []
    for batch in outer_batches:
        outer = outer_gradients(problem.outer_loss, weights, values, batch)
        require_connected(problem, weights, values, inner_batch=inner_batch, outer_batch=batch, opt_state=opt_state)
        found.append(implicit(method, point, outer, values, throw=throw, key=key))
    return found


def supports(spec_type: type) -> bool:
    """Whether this backend has a rule for the spec type."""
    return spec_type in INNERS or spec_type is Implicit or spec_type in METHODS or spec_type in SOLVERS

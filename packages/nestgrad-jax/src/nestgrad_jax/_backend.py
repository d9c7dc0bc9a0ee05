"""The backend's entry points on single problems: hypergradient and its relatives, each one compiled program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax

from nestgrad import (
    INNERS_OF,
    BilevelProblem,
    HyperGradient,
    HyperGradientJVP,
    Implicit,
    InvalidInput,
    Status,
    Unrolled,
    UnsupportedSpec,
    require_batches,
    require_legal,
)
from nestgrad_jax._calls import as_call, as_direction, require_hashable, settled
from nestgrad_jax._derivatives import linearize, outer_gradients
from nestgrad_jax._explain import explained
from nestgrad_jax._report import Packed, Unpacked, packed, raised, unpacked, whole
from nestgrad_jax._rules import bome, darts, penalty, pes, responses, sama, unrolled  # noqa: F401  (fills the table)
from nestgrad_jax._rules._blocks import block_of, stepwise
from nestgrad_jax._rules._common import METHODS, Call
from nestgrad_jax._rules.implicit import several, tangent
from nestgrad_jax._rules.reversible import reversible
from nestgrad_jax._solvers._common import SOLVERS
from nestgrad_jax._tree import check_arguments, is_traced
from nestgrad_jax._warn import note_compilation, warn_of_zeros


def hypergradient(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    method: Any,
    inner_batch: Any = None,
    inner_batches: Sequence[Any] | None = None,
    outer_batch: Any = None,
    opt_state: Any = None,
    warm_start: Any = None,
    preconditioner: Any = None,
    key: Any = None,
    throw: bool = True,
) -> HyperGradient:
    """d outer_loss / d hparams at these params, by the method (see the method's own definition).

    params: a pytree of floating arrays. hparams: a pytree of floating arrays or Python floats. inner_batches: one batch
    a step, for unrolling methods, in place of inner_batch. opt_state: the optimizer's state, for a WeightUpdate; a
    fresh one when None. warm_start: the adjoint of an earlier result. preconditioner: a tree like params of positive
    numbers. key: an int or a PRNG key. It is compiled once for each problem, method and set of shapes: keep the
    problem's functions, rather than writing them anew for each call.

    Raises the errors of nestgrad: for wrong input always, for a failed solve unless throw=False, which returns the
    status instead. Under a user's own jit, vmap or scan a failed solve cannot raise; status is then an int32 array.
    """
    _require_method(problem, method, warm_start=warm_start, preconditioner=preconditioner, key=key)
    require_batches(method, inner_batch, inner_batches)
    given = as_call(
        params,
        hparams,
        inner_batch=inner_batch,
        inner_batches=inner_batches,
        outer_batch=outer_batch,
        opt_state=opt_state,
        warm_start=warm_start,
        preconditioner=preconditioner,
        key=key,
    )
    with explained("hypergradient", given):
        found, doubtful, *_ = solved(problem, method, given)
    if not isinstance(found.status, Status):
        return found
    if throw:
        raised(found, method)
    if doubtful:
        warn_of_zeros(problem.inner, method, opt_state, found)
    return found


def hypergradients(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    method: Any,
    inner_batch: Any = None,
    outer_batches: Sequence[Any],
    opt_state: Any = None,
    key: Any = None,
    throw: bool = True,
) -> list[HyperGradient]:
    """One hypergradient for each outer batch, from a single linearisation of the inner problem; Implicit only.

    Each is what `hypergradient` gives on that batch. Raises as it does, for the first that failed.
    """
    _require_implicit("hypergradients", problem, method, key=key)
    if not isinstance(outer_batches, (list, tuple)) or not outer_batches:
        count = len(outer_batches) if isinstance(outer_batches, (list, tuple)) else type(outer_batches).__name__
        raise InvalidInput(f"outer_batches: got {count}, limit: a list of at least 1. Remedy: pass [batch, ...].")
    given = as_call(
        params, hparams, inner_batch=inner_batch, outer_batch=list(outer_batches), opt_state=opt_state, key=key
    )
    with explained("hypergradients", given):
        results = _compiled_several(problem, method, given)
    return [_reported(found, method, given, throw=throw) for found in results]


def hypergradient_jvp(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    direction: Any,
    *,
    method: Any,
    inner_batch: Any = None,
    outer_batch: Any = None,
    opt_state: Any = None,
    warm_start: Any = None,
    preconditioner: Any = None,
    key: Any = None,
    throw: bool = True,
) -> HyperGradientJVP:
    """The derivative of the outer loss along `direction`, a tree like hparams, by forward mode: J z = -B ξ; Implicit.

    warm_start is an earlier result's response. Raises as `hypergradient` does.
    """
    _require_implicit(
        "hypergradient_jvp", problem, method, warm_start=warm_start, preconditioner=preconditioner, key=key
    )
    given = as_call(
        params,
        hparams,
        inner_batch=inner_batch,
        outer_batch=outer_batch,
        opt_state=opt_state,
        warm_start=warm_start,
        preconditioner=preconditioner,
        key=key,
    )
    check_arguments(direction=direction)
    with explained("hypergradient_jvp", given, direction=direction):
        found: HyperGradientJVP = _compiled_tangent(problem, method, given, direction)
    return _reported(found, method, given, throw=throw)


def supports(spec_type: type) -> bool:
    """Whether this backend has a rule for the spec type."""
    return spec_type in INNERS_OF[Implicit] or spec_type in METHODS or spec_type in SOLVERS


def solved(problem: BilevelProblem, method: Any, given: Call) -> Unpacked:
    """The result of a checked call. That of reversible steps, which the host takes, has no |total|."""
    if isinstance(method, Unrolled) and method.mode == "reversible":
        found = reversible(method, problem, given)
        return Unpacked(replace(found, status=Status(int(found.status))), True, math.nan, float(found.outer_loss))
    return unpacked(_found(problem, method, given))


def _found(problem: BilevelProblem, method: Any, given: Call) -> Packed:
    """The packed result: of one program, or of one a block of steps where a run is long or its steps are large."""
    if isinstance(method, Unrolled) and method.mode == "reverse" and not is_traced(given):
        block = block_of(problem.inner, given)
        if method.num_steps > block and (found := stepwise(method, problem, given, block)) is not None:
            return found
    return _compiled(problem, method, given)


@partial(jax.jit, static_argnames=("problem", "method"))
def _compiled(problem: BilevelProblem, method: Any, given: Call) -> Packed:
    found = METHODS(method, problem, settled(given))
    note_compilation(problem, method, given)  # not for a call that was refused
    return packed(found)


@partial(jax.jit, static_argnames=("problem", "method"))
def _compiled_several(problem: BilevelProblem, method: Implicit, given: Call) -> list[HyperGradient]:
    call = settled(given)
    point = linearize(problem.inner, call.params, call.hparams, call.inner_batch, call.opt_state)
    outers = [outer_gradients(problem.outer_loss, call.params, call.hparams, batch) for batch in call.outer_batch]
    found = several(method, point, outers, call.hparams, params=call.params, key=call.key)
    return [whole(each) for each in found]


@partial(jax.jit, static_argnames=("problem", "method"))
def _compiled_tangent(problem: BilevelProblem, method: Implicit, given: Call, direction: Any) -> HyperGradientJVP:
    call = settled(given)
    point = linearize(problem.inner, call.params, call.hparams, call.inner_batch, call.opt_state)
    outer = outer_gradients(problem.outer_loss, call.params, call.hparams, call.outer_batch)
    along = as_direction(call.hparams, direction)
    return tangent(method, point, outer, call.hparams, along, params=call.params, call=call)


def _reported(found: Any, method: Any, given: Call, *, throw: bool) -> Any:
    """The result with its status as a Status where it has a value; raises the error of a failed one."""
    if is_traced((given, found)):
        return found
    found = replace(found, status=Status(int(found.status)))
    if throw:
        raised(found, method)
    return found


def _require_method(problem: BilevelProblem, method: Any, **extras: Any) -> None:
    """Raise before anything is computed unless the specs go together and there is a rule for them."""
    require_legal(problem.inner, method, **extras)
    if type(method) not in METHODS:
        there = ", ".join(sorted(kind.__name__ for kind in METHODS))
        raise UnsupportedSpec(
            f"hypergradient: method {method!r}, limit: {there}. Remedy: pass Implicit(solver=CG(...))."
        )
    require_hashable("hypergradient", problem=problem, method=method)


def _require_implicit(caller: str, problem: BilevelProblem, method: Any, **extras: Any) -> None:
    if not isinstance(method, Implicit):
        raise UnsupportedSpec(
            f"{caller}: method {type(method).__name__}, limit: Implicit. Remedy: pass Implicit(solver=CG(...))."
        )
    _require_method(problem, method, **extras)

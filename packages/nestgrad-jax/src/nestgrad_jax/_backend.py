"""The backend's two entry points: hypergradient and supports."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax

from nestgrad import (
    BilevelProblem,
    HyperGradient,
    Implicit,
    InvalidInput,
    Minimize,
    Status,
    UnsupportedSpec,
    WeightUpdate,
    error_for,
)
from nestgrad_jax._derivatives import linearize, outer_gradients
from nestgrad_jax._rules.implicit import implicit
from nestgrad_jax._solvers._common import SOLVERS
from nestgrad_jax._tree import as_hparams, as_params, check_arguments, check_matching, is_traced


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
    """d outer_loss / d hparams at these params: total = direct - Bᵀp (see nestgrad.Implicit).

    params: a pytree of floating arrays. hparams: a pytree of floating arrays or Python floats. opt_state: the
    optimizer's state, for a WeightUpdate; a fresh one when None. It is compiled once for each problem, method and set
    of shapes: keep the problem's functions, rather than writing them anew for each call.

    Raises the errors of nestgrad: for wrong input always, for a failed solve unless throw=False, which returns the
    status instead. Under a user's own jit, vmap or scan a failed solve cannot raise; status is then an int32 array.
    """
    if not isinstance(method, Implicit):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UnsupportedSpec(
            f"hypergradient: method {method!r}, limit: Implicit. Remedy: pass Implicit(solver=CG(...))."
        )
    _require_hashable(problem, method)
    given = (params, hparams, inner_batch, outer_batch, opt_state)
    check_arguments(params=params, hparams=hparams, inner_batch=inner_batch, outer_batch=outer_batch)
    found: HyperGradient = _compiled(problem, method, *given)
    if is_traced((given, found)):
        return found
    found = replace(found, status=Status(int(found.status)))
    if throw and not found.status.ok:
        raise error_for(found.status, method, found.stats)
    return found


@partial(jax.jit, static_argnames=("problem", "method"))
def _compiled(
    problem: BilevelProblem,
    method: Implicit,
    params: Any,
    hparams: Any,
    inner_batch: Any,
    outer_batch: Any,
    opt_state: Any,
) -> HyperGradient:
    weights = as_params(params)
    values = as_hparams(hparams, jax.tree.leaves(weights)[0].dtype)
    check_matching(weights, hparams=values, inner_batch=inner_batch, outer_batch=outer_batch)
    point = linearize(problem.inner, weights, values, inner_batch, opt_state)
    outer = outer_gradients(problem.outer_loss, weights, values, outer_batch)
    return implicit(method, point, outer, values)


def _require_hashable(problem: BilevelProblem, method: Implicit) -> None:
    for title, spec in {"problem": problem, "method": method}.items():
        try:
            hash(spec)
        except TypeError as error:
            raise InvalidInput(
                f"hypergradient: {title} is not hashable ({error}), limit: functions and numbers, as it is static "
                "under jit. Remedy: write the loss as a function, and pass its arrays by hparams or the batch."
            ) from error


def supports(spec_type: type) -> bool:
    """Whether this backend has a rule for the spec type."""
    return spec_type in (Minimize, WeightUpdate, Implicit) or spec_type in SOLVERS

"""The backend's entry points for one hypergradient, and for several that share a linearisation."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nestgrad import (
    INNERS,
    BilevelProblem,
    HyperGradient,
    HyperGradientJVP,
    Implicit,
    InvalidInput,
    ProximalGradient,
    UnsupportedSpec,
    WeightUpdate,
    ZeroHypergradient,
    require_batches,
    require_legal,
    tree,
)
from nestgrad_torch._derivatives import linearize
from nestgrad_torch._rules import METHODS, Call
from nestgrad_torch._rules._call import vector_like
from nestgrad_torch._rules.implicit import extras_of, implicit, implicit_jvp
from nestgrad_torch._second_order import second_order
from nestgrad_torch._solvers import SOLVERS
from nestgrad_torch._tree import Params, as_hparams, check_matching, untouched


@torch.inference_mode(mode=False)  # which also turns gradients on, whatever mode the caller is in
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
    key: int | None = None,
    throw: bool = True,
) -> HyperGradient:
    """d outer_loss / d hparams at these params, as the method's spec defines it.

    params: a tree of floating tensors, or an nn.Module, whose trainable params are meant; losses then receive a
    ModuleParams. hparams: a tree of floating tensors or Python floats. inner_batches: one a step, for an unrolling
    method. opt_state: the optimizer's state, for a WeightUpdate; a fresh one when None. warm_start: an earlier result's
    adjoint. preconditioner: a tree of positive numbers like params. key: an int for what draws at random. Nothing that
    is passed in is changed, nor are the random number generators.

    Raises the errors of nestgrad: for wrong input always, for a failed solve unless throw=False, which returns the
    status instead.
    """
    _require_method(method)
    require_legal(problem.inner, method, warm_start=warm_start, preconditioner=preconditioner, key=key)
    require_batches(method, inner_batch, inner_batches)
    call = as_call(
        problem,
        params,
        hparams,
        inner_batch=inner_batch,
        inner_batches=inner_batches,
        outer_batch=outer_batch,
        opt_state=opt_state,
        warm_start=warm_start,
        preconditioner=preconditioner,
        key=key,
        throw=throw,
    )
    with untouched(call.point), second_order(call.point.module):
        found = METHODS(method, call)
    _warn_of_zeros(call, method, found)
    return found


@torch.inference_mode(mode=False)
def hypergradients(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    *,
    method: Implicit,
    inner_batch: Any = None,
    outer_batches: Sequence[Any],
    opt_state: Any = None,
    key: int | None = None,
    throw: bool = True,
) -> list[HyperGradient]:
    """One hypergradient for each outer batch, from one linearisation; each is what `hypergradient` gives for it."""
    require_legal(problem.inner, method, key=key)
    require_implicit("hypergradients", method)
    if not isinstance(outer_batches, (list, tuple)) or not outer_batches:
        raise InvalidInput(
            f"outer_batches: got {type(outer_batches).__name__} of {len(outer_batches) if outer_batches else 0}, "
            "limit: a list of at least 1 batch. Remedy: pass [outer_batch]."
        )
    call = as_call(problem, params, hparams, inner_batch=inner_batch, opt_state=opt_state, key=key, throw=throw)
    for batch in outer_batches:
        check_matching(call.point, outer_batch=batch)
    with untouched(call.point), second_order(call.point.module):
        place = call.place()
        linear = linearize(problem.inner, place, inner_batch, opt_state)
        linear.damping = method.damping
        extras, found = extras_of(call, linear), []
        for batch in outer_batches:
            with untouched(call.point):
                outer = dataclasses.replace(call, outer_batch=batch).outer_loss(place)
                found.append(implicit(method, linear, outer, place.weights, call.hparams, throw=throw, extras=extras))
        return found


@torch.inference_mode(mode=False)
def hypergradient_jvp(
    problem: BilevelProblem,
    params: Any,
    hparams: Any,
    direction: Any,
    *,
    method: Implicit,
    inner_batch: Any = None,
    outer_batch: Any = None,
    opt_state: Any = None,
    warm_start: Any = None,
    preconditioner: Any = None,
    key: int | None = None,
    throw: bool = True,
) -> HyperGradientJVP:
    """The derivative of outer_loss along a direction in hparams (a tree like them), by one forward solve."""
    require_legal(problem.inner, method, warm_start=warm_start, preconditioner=preconditioner, key=key)
    require_implicit("hypergradient_jvp", method)
    call = as_call(
        problem,
        params,
        hparams,
        inner_batch=inner_batch,
        outer_batch=outer_batch,
        opt_state=opt_state,
        warm_start=warm_start,
        preconditioner=preconditioner,
        key=key,
        throw=throw,
    )
    along = _like_hparams(direction, call.hparams, call.point.leaves[0])
    with untouched(call.point), second_order(call.point.module):
        place = call.place()
        linear = linearize(problem.inner, place, inner_batch, opt_state)
        linear.damping = method.damping
        outer = call.outer_loss(place)
        return implicit_jvp(
            method,
            linear,
            outer,
            place.weights,
            call.hparams,
            along,
            throw=throw,
            extras=extras_of(call, linear),
            response=lambda vector: call.point.plain(vector[: place.weights.numel()]),
        )


def supports(spec_type: type) -> bool:
    """Whether this backend has a rule for the spec type."""
    return spec_type in INNERS or spec_type in METHODS or spec_type in SOLVERS


def as_call(problem: BilevelProblem, params: Any, hparams: Any, **given: Any) -> Call:
    """The call's arguments, checked: values that can be differentiated, of one dtype and device."""
    point = Params(params)
    hparams = as_hparams(hparams, point.leaves[0])
    batches = {name: given[name] for name in ("inner_batch", "inner_batches", "outer_batch") if name in given}
    check_matching(point, hparams=hparams, **batches)
    return Call(problem=problem, point=point, hparams=hparams, **given)


def _warn_of_zeros(call: Call, method: Any, found: HyperGradient) -> None:
    """Give ZeroHypergradient for a hyperparameter whose total is exactly zero though the adjoint is not.

    Not where zero is common and right: in a WeightUpdate from a fresh state, whose empty momentum has no effect on its
    first step; in a ProximalGradient, with no active entry; in methods that have no adjoint of their own.
    """
    inner = call.problem.inner
    first = isinstance(inner, WeightUpdate) and call.opt_state is None
    usual = first or isinstance(inner, ProximalGradient) or not isinstance(method, Implicit)
    if usual or not found.status.ok or not found.stats.adjoint_norm > 0.0:
        return
    named = {name: leaf for name, leaf in tree.named_leaves(found.total).items() if leaf.numel()}
    largest = torch.stack([leaf.abs().max() for leaf in named.values()]).tolist() if named else []
    for name, size in zip(named, largest, strict=True):
        if size == 0.0:
            warnings.warn(
                f"hparams[{name!r}]: hypergradient exactly 0, limit: not 0, while the adjoint has the norm "
                f"{found.stats.adjoint_norm:.3g}. Remedy: nestgrad_torch.check(...), which tells whether it acts.",
                ZeroHypergradient,
                stacklevel=4,
            )


def _require_method(method: Any) -> None:
    if type(method) not in METHODS:
        there = ", ".join(sorted(kind.__name__ for kind in METHODS))
        raise UnsupportedSpec(f"method {method!r}, limit: {there}. Remedy: pass Implicit(solver=CG(...)).")


def require_implicit(name: str, method: Any) -> None:
    if not isinstance(method, Implicit):
        raise UnsupportedSpec(
            f"{name}: method {type(method).__name__}, limit: Implicit. Remedy: pass Implicit(solver=CG(...)), or call "
            "hypergradient, which takes every method."
        )


def _like_hparams(direction: Any, hparams: Any, like: Tensor) -> list[Tensor]:
    (leaves,) = tree.matched(hparams, direction)
    values = [torch.as_tensor(x, dtype=like.dtype, device=like.device) if isinstance(x, float) else x for x in leaves]
    vector_like(hparams, tree.unflatten(hparams, values), "direction")
    return [value.detach() for value in values]

"""The backend's entry points for one hypergradient, and for several that share a linearisation."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

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
from nestgrad_torch._compile.hypergradients import findings_of, program_of, require_traceable
from nestgrad_torch._derivatives import linearize
from nestgrad_torch._games.directions import DIRECTIONS
from nestgrad_torch._rules import METHODS, Call
from nestgrad_torch._rules._call import vector_like
from nestgrad_torch._rules._findings import Findings, result
from nestgrad_torch._rules.implicit import extras_of, implicit, implicit_jvp, outer_slopes
from nestgrad_torch._second_order import second_order
from nestgrad_torch._solvers import SOLVERS
from nestgrad_torch._tree import Params, as_hparams, check_matching, untouched
from nestgrad_torch.distributed import unwrapped


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
    compile: bool = False,  # noqa: A002
    process_group: Any = None,
) -> HyperGradient:
    """d outer_loss / d hparams at these params, as the method's spec defines it.

    params: a tree of floating tensors, or an nn.Module, whose trainable params are meant; losses then receive a
    ModuleParams. hparams: a tree of floating tensors or Python floats. inner_batches: one a step, for an unrolling
    method. opt_state: the optimizer's state, for a WeightUpdate; a fresh one when None. warm_start: an earlier result's
    adjoint. preconditioner: a tree of positive numbers like params. key: an int for what draws at random. Nothing that
    is passed in is changed, nor are the random number generators.

    compile: trace the work once for these shapes, dtypes, devices, modes and Python values, measure the trace and its
    compiled form against the eager one, and keep the fastest; `compiled_programs()` and the logger "nestgrad_torch" say
    which. Python values that the losses read are those of the trace, as under jax.jit. Same numbers, same errors.

    process_group: a torch.distributed group, each process of which gives its own batches: the result, in all of them,
    is that of one process on the joined batches (see nestgrad_torch.distributed). A DistributedDataParallel, and
    a module after fully_shard, whose params are gathered for the call, bring their own.

    Raises the errors of nestgrad: for wrong input always, for a failed solve unless throw=False, which returns the
    status instead.
    """
    given: dict[str, Any] = {
        "inner_batch": inner_batch,
        "inner_batches": inner_batches,
        "outer_batch": outer_batch,
        "opt_state": opt_state,
        "warm_start": warm_start,
    }
    extras = {"preconditioner": preconditioner, "key": key, "process_group": process_group}
    find = _from_program if compile else _eager
    if compile and not torch.is_inference_mode_enabled():
        hparams, findings = find(problem, params, hparams, method, given, extras)
    else:
        with torch.inference_mode(mode=False):  # which also turns gradients on, whatever mode the caller is in
            hparams, findings = find(problem, params, hparams, method, given, extras)
    found, report = result(method, hparams, findings, throw=throw)
    _warn_of_zeros(problem.inner, opt_state, method, found, report.sizes)
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
    call = as_call(problem, params, hparams, inner_batch=inner_batch, opt_state=opt_state, key=key)
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
                slopes = outer_slopes(linear, outer, place.weights)
                findings = implicit(method, linear, slopes, call.hparams, extras=extras)
                found.append(result(method, call.hparams, findings, throw=throw)[0])
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


def _require_fit(problem: BilevelProblem, method: Any, given: dict[str, Any], extras: dict[str, Any]) -> None:
    """Raise UnsupportedSpec or InvalidInput unless the method takes the problem and what it is given."""
    _require_method(method)
    preconditioner, key = extras["preconditioner"], extras["key"]
    require_legal(problem.inner, method, warm_start=given["warm_start"], preconditioner=preconditioner, key=key)
    require_batches(method, given["inner_batch"], given["inner_batches"])


def _eager(
    problem: BilevelProblem, params: Any, hparams: Any, method: Any, given: dict[str, Any], extras: dict[str, Any]
) -> tuple[Any, Findings]:
    """(hparams as tensors, the findings of the method's rule)."""
    _require_fit(problem, method, given, extras)
    call = as_call(problem, params, hparams, **given, **extras)
    with untouched(call.point), second_order(call.point.module):
        return call.hparams, METHODS(method, call)


def _from_program(
    problem: BilevelProblem, params: Any, hparams: Any, method: Any, given: dict[str, Any], extras: dict[str, Any]
) -> tuple[Any, Findings]:
    """(hparams as tensors, the findings of the program for these arguments).

    What depends on the program's key alone is checked when it is made; extras: arguments that it cannot have.
    """

    def call() -> Call:
        _require_fit(problem, method, given, extras)
        _, group = unwrapped(params, extras["process_group"])
        shared = None if group.size == 1 else group
        require_traceable(problem.inner, method, preconditioner=extras["preconditioner"], process_group=shared)
        return as_call(problem, params, hparams, **given)

    if any(value is not None for value in extras.values()) or isinstance(params, DistributedDataParallel):
        call()
    module, values, buffers = params if isinstance(params, nn.Module) else None, params, {}
    if module is not None:
        values = {name: p for name, p in module.named_parameters() if p.requires_grad}
        buffers = dict(module.named_buffers())
    if not all(isinstance(h, Tensor) for h in tree.leaves(hparams)):
        hparams = as_hparams(hparams, Params(params).leaves[0])
    trees = {"params": values, "buffers": buffers, "hparams": hparams, **given}
    program, leaves = program_of(call, trees, problem, method, module)
    return hparams, findings_of(program, leaves)


def supports(spec_type: type) -> bool:
    """Whether this backend has a rule for the spec type."""
    return any(spec_type in table for table in (INNERS, METHODS, SOLVERS, DIRECTIONS))


def as_call(problem: BilevelProblem, params: Any, hparams: Any, *, process_group: Any = None, **given: Any) -> Call:
    """The call's arguments, checked: values that can be differentiated, of one dtype and device."""
    point = Params(params, process_group)
    hparams = as_hparams(hparams, point.leaves[0])
    batches = {name: given[name] for name in ("inner_batch", "inner_batches", "outer_batch") if name in given}
    check_matching(point, hparams=hparams, **batches)
    return Call(problem=problem, point=point, hparams=hparams, **given)


def _warn_of_zeros(inner: Any, opt_state: Any, method: Any, found: HyperGradient, sizes: list[float]) -> None:
    """Give ZeroHypergradient for a hyperparameter whose total is exactly zero though the adjoint is not.

    Not where zero is common and right: in a WeightUpdate from a fresh state, whose empty momentum has no effect on its
    first step; in a ProximalGradient, with no active entry; in methods that have no adjoint of their own.
    """
    first = isinstance(inner, WeightUpdate) and opt_state is None
    usual = first or isinstance(inner, ProximalGradient) or not isinstance(method, Implicit)
    if all(sizes) or usual or not found.status.ok or not found.stats.adjoint_norm > 0.0:
        return
    for (name, leaf), size in zip(tree.named_leaves(found.total).items(), sizes, strict=True):
        if size == 0.0 and leaf.numel():
            warnings.warn(
                f"hparams[{name!r}]: hypergradient exactly 0, limit: not 0, while the adjoint has the norm "
                f"{found.stats.adjoint_norm:.3g}. Remedy: nestgrad_torch.check(...), which tells whether it acts.",
                ZeroHypergradient,
                stacklevel=3,
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

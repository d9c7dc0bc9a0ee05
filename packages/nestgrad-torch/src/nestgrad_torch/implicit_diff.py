"""Implicit differentiation as decorators on a solver(init_params, *args), in jaxopt's call form.

Both stand on `best_response`: autograd, double backward and torch.func differentiate the decorated solver in every
floating tensor among its args; init_params is where it starts, and the solution does not depend on it.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import LSMR, Dense, FixedPoint, Implicit, InvalidInput, Root, Status, ZeroHypergradient, tree
from nestgrad_torch._best_response import Problem, respond_to_arguments
from nestgrad_torch._solvers import SOLVERS, Deferred, Solve, System
from nestgrad_torch._tree import flat

__all__ = ["custom_fixed_point", "custom_root"]

_FEW = 256
"""Up to as many unknowns the default solver is the dense one."""


def custom_root(
    optimality_fun: Callable[..., Any],
    has_aux: bool = False,
    solve: Any = None,
    reference_signature: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: solver(init_params, *args) -> params with optimality_fun(params, *args) = 0, differentiable in args.

    has_aux: the solver returns (params, aux). solve: a solver spec as LSMR(...), or a function solve(matvec, b) -> x on
    trees like params; None is Dense() up to 256 unknowns and LSMR above. reference_signature: the function by whose
    signature keyword arguments are put in order, when not optimality_fun. A linear solve that does not converge raises
    the error that says so. (jaxopt.implicit_diff.custom_root.)
    """
    return functools.partial(
        _decorate, Root(_of_arguments(optimality_fun)), optimality_fun, has_aux, solve, reference_signature
    )


def custom_fixed_point(
    fixed_point_fun: Callable[..., Any],
    has_aux: bool = False,
    solve: Any = None,
    reference_signature: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: solver(init_params, *args) -> params with fixed_point_fun(params, *args) = params; see custom_root."""
    inner = FixedPoint(_of_arguments(fixed_point_fun))
    return functools.partial(_decorate, inner, fixed_point_fun, has_aux, solve, reference_signature)


def _of_arguments(function: Callable[..., Any]) -> Callable[[Any, Any, Any], Any]:
    return lambda params, hparams, batch: function(params, *hparams)


def _decorate(
    inner: Any, function: Callable[..., Any], has_aux: bool, solve: Any, reference: Any, solver: Callable[..., Any]
) -> Callable[..., Any]:
    signature = inspect.signature(function if reference is None else reference)
    _spec_of(solve, 1.0)

    @functools.wraps(solver)
    def wrapped(init_params: Any, *args: Any, **kwargs: Any) -> Any:
        args = _positional(signature, init_params, args, kwargs)
        _warn_of_start(init_params)
        start = tree.map(lambda x: x.detach() if isinstance(x, Tensor) else x, init_params)
        floating = [x for x in tree.leaves(list(args)) if isinstance(x, Tensor) and x.is_floating_point()]
        if not floating:
            return solver(start, *args)
        method = Implicit(solver=_spec_of(solve, torch.finfo(floating[0].dtype).eps))
        problem = Problem(lambda given, _: run(start, given), inner, method)

        def run(start: Any, given: Any) -> Any:
            found = solver(start, *given)
            if not has_aux:
                return found
            params, *rest = found
            problem.aux = rest
            return params

        solution = respond_to_arguments(problem, list(args))
        return (solution, *problem.aux) if has_aux else solution

    return wrapped


def _positional(
    signature: inspect.Signature, params: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """All arguments after params in the order of the signature."""
    if not kwargs:
        return args
    bound = signature.bind(params, *args, **kwargs)
    bound.apply_defaults()
    if bound.kwargs:
        raise InvalidInput(
            f"implicit_diff: keyword-only argument {next(iter(bound.kwargs))!r}, limit: arguments that can be given by "
            "position. Remedy: pass a reference_signature without '*'."
        )
    return bound.args[1:]


def _warn_of_start(init_params: Any) -> None:
    for name, leaf in tree.named_leaves(init_params).items():
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            warnings.warn(
                f"init_params[{name!r}]: requires grad, and its derivative is 0, limit: no start that is "
                "differentiated in, since a solution does not depend on where the solver began. "
                "Remedy: .detach() it, or unroll the solver with Unrolled.",
                ZeroHypergradient,
                stacklevel=4,
            )


def _spec_of(solve: Any, eps: float) -> Any:
    if solve is None:
        return Automatic(rtol=eps**0.75)
    if hasattr(solve, "__dataclass_fields__") and not isinstance(solve, type):
        return solve
    if callable(solve):
        return Given(solve, rtol=eps**0.5)
    raise InvalidInput(
        f"solve: got {solve!r}, limit: a solver spec or a function solve(matvec, b). "
        "Remedy: LSMR(rtol=1e-8, max_steps=500)."
    )


@dataclass(frozen=True, slots=True)
class Automatic:
    """Dense up to 256 unknowns; above, LSMR with rtol = eps^¾ and at most 4 steps an unknown."""

    rtol: float
    atol: float = 0.0


@dataclass(frozen=True, slots=True)
class Given:
    """A function solve(matvec, b) -> x; its residual is recomputed, and must be at most rtol = √eps of |b|."""

    solve: Callable[..., Any]
    rtol: float
    atol: float = 0.0


@SOLVERS.register(Automatic)
def _automatic(spec: Automatic, system: System) -> Solve | Deferred:
    n = system.rhs.numel()
    if n <= _FEW:
        return SOLVERS(Dense(), system)
    return SOLVERS(LSMR(rtol=spec.rtol, max_steps=4 * n), system)


@SOLVERS.register(Given)
def _given(spec: Given, system: System) -> Solve:
    products, shape = 0, system.shape
    if shape is None:
        raise TypeError  # respond gives every system its structure

    def matvec(x: Any) -> Any:
        nonlocal products
        products += 1
        return shape(system.apply(flat(tree.leaves(x))))

    answer = spec.solve(matvec, shape(system.rhs))
    solution = flat([leaf.detach() for leaf in tree.leaves(answer)])
    residual = float(vector_norm(system.apply(solution) - system.rhs))
    small = residual <= spec.rtol * float(vector_norm(system.rhs))
    return Solve(
        solution=solution,
        status=Status.CONVERGED if small else Status.MAX_STEPS_REACHED,
        residual_norm=residual,
        steps=products,
        products=products + 1,
    )

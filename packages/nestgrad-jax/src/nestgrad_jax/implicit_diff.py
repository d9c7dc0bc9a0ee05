"""Implicit differentiation as decorators on solvers, in the form that users of jaxopt know."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nestgrad import (
    TRAITS,
    Dense,
    FixedPoint,
    Implicit,
    InvalidInput,
    NormalCG,
    Root,
    Traits,
    UnsupportedSpec,
)
from nestgrad_jax._solution import Rule, differentiable
from nestgrad_jax._solvers._common import SOLVERS
from nestgrad_jax._tree import flat

__all__ = ["custom_fixed_point", "custom_root"]

_DENSE_UP_TO = 512


def custom_root(
    optimality_fun: Callable[..., Any],
    has_aux: bool = False,
    solve: Any = None,
    reference_signature: Any = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator on solver(init_params, *args, **kwargs) -> params, a root of optimality_fun(params, *args, **kwargs).

    The decorated solver is differentiated in args and kwargs by the implicit function theorem, in reverse and forward
    mode and to any order; a derivative in init_params raises InvalidInput. has_aux: the solver returns (params, aux),
    and aux is not differentiated. solve: a solver spec, or a callable solve(matvec, b) on trees like params; by default
    Dense() up to 512 weights, and NormalCG above. reference_signature: the function or signature by which keyword
    arguments are put in order; optimality_fun's by default.
    """
    return _decorator(optimality_fun, Root, has_aux, solve, reference_signature)


def custom_fixed_point(
    fixed_point_fun: Callable[..., Any],
    has_aux: bool = False,
    solve: Any = None,
    reference_signature: Any = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """As custom_root, for a solver whose params are a fixed point of fixed_point_fun(params, *args, **kwargs)."""
    return _decorator(fixed_point_fun, FixedPoint, has_aux, solve, reference_signature)


def _decorator(
    function: Callable[..., Any], kind: type, has_aux: bool, solve: Any, reference: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    _check_solve(solve)
    order = reference if isinstance(reference, inspect.Signature) or reference is None else inspect.signature(reference)

    def decorate(solver: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(solver)
        def solved(init_params: Any, *args: Any, **kwargs: Any) -> Any:
            for each in (solver, function):
                _require_open(each)
            arrays, layout = _Layout.of((args, kwargs))

            def run(init: Any, given: list[Any], _: Any) -> tuple[Any, Any]:
                positional, named = layout.restored(given)
                found = solver(init, *positional, **named)
                return found if has_aux else (found, None)

            rule = Rule(kind(_Function(function, layout, order)), _method(solve, init_params))
            params, aux = differentiable(run, rule)(init_params, arrays, None)
            return (params, aux) if has_aux else params

        return solved

    return decorate


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the arrays of (args, kwargs) belong, and all that is no array: static, and never differentiated."""

    structure: Any
    places: tuple[int, ...]
    rest: tuple[Any, ...]

    @staticmethod
    def of(tree: Any) -> tuple[list[Any], _Layout]:
        leaves, structure = jax.tree.flatten(tree)
        places = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, (Array, np.ndarray)))
        rest = tuple(None if i in places else _Static(leaf) for i, leaf in enumerate(leaves))
        return [leaves[place] for place in places], _Layout(structure, places, rest)

    def restored(self, arrays: list[Any]) -> Any:
        """(args, kwargs) with these arrays."""
        found = [None if each is None else each.value for each in self.rest]
        for place, leaf in zip(self.places, arrays, strict=True):
            found[place] = leaf
        return jax.tree.unflatten(self.structure, found)


class _Static:
    """A value compared by ==, or by identity where it has no hash."""

    __slots__ = ("key", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        try:
            hash(value)
            self.key: Any = (type(value), value)
        except TypeError:
            self.key = id(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, slots=True)
class _Function:
    """function(params, *args, **kwargs) as map(params, arrays, batch), the same one for the same static arguments."""

    function: Callable[..., Any]
    layout: _Layout
    order: inspect.Signature | None

    def __call__(self, params: Any, arrays: Any, _: Any) -> Any:
        args, kwargs = self.layout.restored(arrays)
        if self.order is None:
            return self.function(params, *args, **kwargs)
        try:
            bound = self.order.bind(params, *args, **kwargs)
        except TypeError as error:
            raise InvalidInput(
                f"reference_signature {self.order}: {error}, limit: the solver's arguments. "
                "Remedy: pass a signature that both functions share."
            ) from error
        return self.function(*bound.args, **bound.kwargs)


def _method(solve: Any, init_params: Any) -> Any:
    if solve is None:
        vector = flat(init_params)
        if vector.size <= _DENSE_UP_TO:
            return Implicit(solver=Dense(max_params=_DENSE_UP_TO))
        double = vector.dtype == jnp.float64
        return Implicit(solver=NormalCG(rtol=1e-10 if double else 1e-5, max_steps=1000))
    return Implicit(solver=solve) if type(solve) in SOLVERS else solve


def _check_solve(solve: Any) -> None:
    if solve is not None and type(solve) not in SOLVERS and (isinstance(solve, type) or not callable(solve)):
        raise InvalidInput(
            f"solve: got {solve!r}, limit: a solver spec or a callable solve(matvec, b). Remedy: solve=Dense()."
        )
    if type(solve) in SOLVERS and TRAITS.get(type(solve), Traits()).key:
        raise UnsupportedSpec(
            f"solve: {type(solve).__name__} draws at random, limit: a solver without a key. Remedy: solve=Dense()."
        )


def _require_open(function: Callable[..., Any]) -> None:
    """Raise InvalidInput for a value under differentiation that a function closes over instead of being given it."""
    function = inspect.unwrap(function)
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None) or ()
    for name, cell in zip(code.co_freevars if code else (), cells, strict=False):
        try:
            held = cell.cell_contents
        except ValueError:  # an empty cell, of a name that is assigned later
            continue
        if any(type(leaf).__name__ in _DIFFERENTIATED for leaf in jax.tree.leaves(held)):
            raise InvalidInput(
                f"{function.__name__} closes over {name!r}, which is being differentiated, limit: 0 such values. "
                f"Remedy: pass {name} as an argument of the solver."
            )


_DIFFERENTIATED = ("JVPTracer", "LinearizeTracer")
"""The tracers of a derivative; those of jit may be closed over."""

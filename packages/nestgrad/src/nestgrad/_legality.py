"""Which inner problem, method, solver and call argument go together: data, and the refusal of what does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast, get_args

from nestgrad._errors import InvalidInput, UnsupportedSpec
from nestgrad._methods.bome import BOME
from nestgrad._methods.darts import DARTS
from nestgrad._methods.implicit import Implicit, Solver
from nestgrad._methods.penalty import Penalty
from nestgrad._methods.pes import PES
from nestgrad._methods.responses import FactorisedResponse, GatedResponse, LinearResponse, MLPResponse
from nestgrad._methods.sama import SAMA
from nestgrad._methods.unrolled import Unrolled
from nestgrad._problem import FixedPoint, Minimize, ProximalGradient, Root, WeightUpdate, require_inner
from nestgrad._solvers.bicgstab import BiCGSTAB
from nestgrad._solvers.cg import CG
from nestgrad._solvers.gmres import GMRES
from nestgrad._solvers.lsmr import LSMR
from nestgrad._solvers.minres import MINRES
from nestgrad._solvers.neumann import Neumann
from nestgrad._solvers.normal_cg import NormalCG
from nestgrad._solvers.nystrom import Nystrom
from nestgrad._solvers.random_neumann import RandomNeumann

_ANY: tuple[type, ...] = (Minimize, WeightUpdate, FixedPoint, Root, ProximalGradient)
_STEPPED: tuple[type, ...] = (WeightUpdate, FixedPoint, ProximalGradient)

INNERS_OF: Mapping[type, tuple[type, ...]] = {
    Implicit: _ANY,
    Unrolled: _STEPPED,
    PES: _STEPPED,
    DARTS: (Minimize,),
    Penalty: (Minimize,),
    BOME: (Minimize,),
    SAMA: (WeightUpdate,),
    LinearResponse: (Minimize,),
    FactorisedResponse: (Minimize,),
    MLPResponse: (Minimize,),
    GatedResponse: (Minimize,),
}
"""The inner problems that each method takes; a method that is not listed takes any."""

_NEAREST: Mapping[tuple[type, type], str] = {
    (Unrolled, Minimize): "WeightUpdate(loss, optimizer), whose steps can be unrolled",
    (Unrolled, Root): "FixedPoint(map), with a map whose steps can be unrolled",
    (PES, Minimize): "WeightUpdate(loss, optimizer), whose steps can be unrolled",
    (PES, Root): "FixedPoint(map), with a map whose steps can be unrolled",
    (DARTS, WeightUpdate): "SAMA() for a WeightUpdate, or Minimize(loss)",
    (SAMA, Minimize): "DARTS(step_size=...) for a Minimize, or WeightUpdate(loss, optimizer)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a solver or method needs and takes.

    symmetric: J must be symmetric (probed at run time where the inner problem does not say so). repaired: a diagonal
    times a symmetric matrix will do. warm_start, preconditioner: takes that call argument. key: needs it.
    """

    symmetric: bool = False
    repaired: bool = False
    warm_start: bool = False
    preconditioner: bool = False
    key: bool = False


TRAITS: Mapping[type, Traits] = {
    CG: Traits(symmetric=True, repaired=True, warm_start=True, preconditioner=True),
    MINRES: Traits(symmetric=True, repaired=True, warm_start=True),
    NormalCG: Traits(warm_start=True),
    LSMR: Traits(warm_start=True),
    GMRES: Traits(warm_start=True, preconditioner=True),
    BiCGSTAB: Traits(warm_start=True, preconditioner=True),
    Neumann: Traits(preconditioner=True),
    RandomNeumann: Traits(key=True),
    Nystrom: Traits(symmetric=True, key=True),
    PES: Traits(key=True),
}
"""Solvers and methods with a demand or an extra; all others have the default traits."""


def illegal(inner: Any, method: Any) -> str | None:
    """Why this inner problem and method do not go together, with the nearest legal choice; None when they do.

    Symmetry is refused here only where the inner problem rules it out; elsewhere solvers probe it.
    """
    kind = cast("type", method.__class__)
    taken = INNERS_OF.get(kind, _ANY)
    name = type(inner).__name__
    if type(inner) not in taken:
        there = ", ".join(each.__name__ for each in taken)
        nearest = _NEAREST.get((kind, inner.__class__), f"{taken[0].__name__}, or Implicit(solver=...)")
        return f"{kind.__name__} on {name}, limit: {there}. Remedy: use {nearest}."
    if isinstance(method, Implicit):
        traits = TRAITS.get(type(method.solver), Traits())
        if traits.symmetric and (reason := _never_symmetric(inner, traits)):
            solver = type(method.solver).__name__
            return f"{solver} on {reason}, limit: a symmetric J. Remedy: use GMRES, LSMR, Neumann or Dense()."
    if isinstance(method, Unrolled) and method.mode == "reversible" and not isinstance(inner, WeightUpdate):
        return f"Unrolled(mode='reversible') on {name}, limit: WeightUpdate. Remedy: use mode='reverse'."
    return None


def _never_symmetric(inner: Any, traits: Traits) -> str | None:
    if isinstance(inner, ProximalGradient):
        return "ProximalGradient, whose J is not symmetric"
    if isinstance(inner, WeightUpdate) and inner.carry == "weights_and_state":
        return "WeightUpdate(carry='weights_and_state'), whose J is not symmetric"
    if isinstance(inner, (WeightUpdate, FixedPoint, Root)) and not traits.repaired:
        return f"{type(inner).__name__}, whose J is not symmetric in general"
    return None


def require_legal(
    inner: Any, method: Any, *, warm_start: Any = None, preconditioner: Any = None, key: Any = None
) -> None:
    """Raise UnsupportedSpec or InvalidInput, before anything is computed, unless all of these go together."""
    require_inner(inner)
    if isinstance(method, get_args(Solver)):
        name = type(method).__name__
        raise UnsupportedSpec(
            f"method: got the solver {name}, limit: Implicit, Unrolled, …. Remedy: pass Implicit(solver={name}(...))."
        )
    if type(method) not in INNERS_OF and (isinstance(method, type) or not hasattr(method, "__dataclass_fields__")):
        there = ", ".join(kind.__name__ for kind in INNERS_OF)
        raise UnsupportedSpec(f"method {method!r}, limit: {there}. Remedy: pass Implicit(solver=CG(...)).")
    if (reason := illegal(inner, method)) is not None:
        raise UnsupportedSpec(reason)
    spec = method.solver if isinstance(method, Implicit) else method
    kind = cast("type", spec.__class__)
    traits, name = TRAITS.get(kind, Traits()), kind.__name__
    for title, value, takes in (
        ("warm_start", warm_start, traits.warm_start),
        ("preconditioner", preconditioner, traits.preconditioner),
    ):
        if value is not None and not takes:
            able = ", ".join(kind.__name__ for kind, each in TRAITS.items() if getattr(each, title))
            raise InvalidInput(f"{title}: given to {name}, limit: {able}. Remedy: leave it out, or use one of these.")
    if traits.key and key is None:
        raise InvalidInput(f"key: got None, limit: an int for {name}, which draws at random. Remedy: pass key=0.")
    if key is not None and not traits.key:
        able = ", ".join(kind.__name__ for kind, each in TRAITS.items() if each.key)
        raise InvalidInput(f"key: given to {name}, which draws nothing, limit: {able}. Remedy: leave it out.")


def require_batches(method: Any, inner_batch: Any, inner_batches: Any) -> None:
    """Raise InvalidInput unless inner_batches, when given, is one batch a step of an unrolling method."""
    if inner_batches is None:
        return
    steps = getattr(method, "num_steps", None) if isinstance(method, (Unrolled, PES)) else None
    if steps is None:
        raise InvalidInput(
            f"inner_batches: given to {type(method).__name__}, limit: Unrolled, PES. Remedy: pass inner_batch."
        )
    if inner_batch is not None:
        raise InvalidInput("inner_batch and inner_batches: 2 given, limit 1. Remedy: leave one of them out.")
    found = _length(inner_batches)
    if found != steps:
        raise InvalidInput(
            f"inner_batches: got {found}, limit: a list of num_steps={steps} batches. Remedy: one a step."
        )


def _length(batches: Any) -> int | str:
    """How many batches there are, or what was given instead of a list."""
    return len(batches) if isinstance(batches, (list, tuple)) else type(batches).__name__  # pyright: ignore[reportUnknownArgumentType]

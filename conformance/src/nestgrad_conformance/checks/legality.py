"""What does not go together is refused before anything is computed, with the nearest choice that does."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume

from nestgrad import (
    BOME,
    CG,
    DARTS,
    GMRES,
    INNERS_OF,
    PES,
    SAMA,
    TRAITS,
    Dense,
    Identity,
    Implicit,
    InvalidInput,
    Neumann,
    Nystrom,
    Penalty,
    Traits,
    Unrolled,
    UnsupportedSpec,
    illegal,
)
from nestgrad_conformance import problems
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expecting import refused
from nestgrad_conformance.problems import Case
from nestgrad_conformance.registry import check

_METHODS: tuple[Any, ...] = (
    Implicit(solver=CG(rtol=1e-6, max_steps=5)),
    Implicit(solver=Nystrom(rank=1, damping=0.1)),
    Unrolled(num_steps=2),
    Unrolled(num_steps=2, mode="reversible"),
    PES(num_steps=2, truncation=1, sigma=0.1, num_pairs=1),
    DARTS(step_size=0.1),
    SAMA(),
    Penalty(multiplier=2.0, num_steps=1, step_size=0.1),
    BOME(num_steps=1, step_size=0.1),
)


def _case(draw: Draw, kind: Any) -> Case:
    if kind in ("fixed point", "root"):
        return problems.mapped(draw, 4, 2, kind=kind)
    if kind == "proximal":
        return problems.sparse(draw)
    case = problems.quadratic(draw, 4, 2)
    return case if kind == "minimize" else problems.updated(draw, case, per_parameter=False).with_(kind=kind)


@check("WeightUpdate", "FixedPoint", "Root", "ProximalGradient", "prox", "sgd")
def illegal_combinations_are_refused_with_a_legal_one(ctx: Context, draw: Draw) -> None:
    """Every inner problem, method and solver that the table calls illegal raises UnsupportedSpec, computing nothing."""
    kinds = ["minimize", "update", "update with state", "fixed point", "root", "proximal"]
    case = _case(draw, draw.pick(kinds, "kind"))
    method = draw.pick([m for m in _METHODS if ctx.harness.backend.supports(type(m))], "method")
    reason = illegal(case.inner(ctx.harness), method)
    assume(reason is not None)
    calls: list[int] = []
    case = case.with_(inner_loss=_Counted(case.inner_loss, calls))
    key: dict[str, Any] = {"key": 0} if TRAITS.get(type(getattr(method, "solver", method)), Traits()).key else {}
    with refused(UnsupportedSpec, type(method).__name__, type(getattr(method, "solver", method)).__name__):
        ctx.by_method(case, method, **key)
    assert not calls, f"{len(calls)} evaluations before the refusal, limit 0"


class _Counted:
    """Makes an inner function that notes its calls."""

    def __init__(self, make: Any, calls: list[int]) -> None:
        self.make, self.calls = make, calls

    def __call__(self, xp: Any) -> Any:
        function = self.make(xp)

        def counted(params: Any, hparams: Any, batch: Any) -> Any:
            self.calls.append(1)
            return function(params, hparams, batch)

        return counted


@check("Minimize", "Dense", "Neumann")
def arguments_that_a_solver_does_not_take_are_refused(ctx: Context, draw: Draw) -> None:
    """A warm start, a preconditioner or a key given to a solver without it, or a key left out, raises InvalidInput."""
    case = problems.quadratic(draw, 4, 2)
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (Dense(), {"warm_start": case.params}, "warm_start"),
        (Dense(), {"preconditioner": case.params}, "preconditioner"),
        (Neumann(num_terms=2, step_size=0.1), {"warm_start": case.params}, "warm_start"),
        (Identity(), {"key": 0}, "key"),
    ]
    if ctx.harness.backend.supports(Nystrom):
        wrong.append((Nystrom(rank=1, damping=0.1), {}, "key"))
    if ctx.harness.backend.supports(GMRES):
        wrong.append((GMRES(rtol=1e-6, max_steps=4), {"preconditioner": {"v": np.ones(4)}}, "preconditioner"))
        wrong.append((GMRES(rtol=1e-6, max_steps=4), {"warm_start": {"w": np.ones(3)}}, "warm_start"))
    solver, extras, name = draw.pick(wrong, "argument")
    with refused(InvalidInput, name):
        ctx.hypergradient(case, solver, **extras)


@check("Unrolled", "FixedPoint")
def inner_batches_are_one_a_step(ctx: Context, draw: Draw) -> None:
    """Too few, too many, or batches for a method that takes no steps raise InvalidInput with both numbers."""
    case = problems.mapped(draw, 4, 2, kind="fixed point")
    method = draw.pick([Unrolled(num_steps=3), Implicit(solver=Dense())], "method")
    with refused(InvalidInput, "inner_batches"):
        ctx.by_method(case, method, inner_batches=[case.inner_batch] * draw.pick([1, 2, 4], "batches"))


@check("Minimize", "Dense")
def the_table_of_methods_covers_what_is_supported(ctx: Context, draw: Draw) -> None:
    """A backend supports no method that the table does not know, and refuses what is no method at all."""
    case = problems.quadratic(draw, 4, 2)
    assert all(isinstance(kind, type) for kind in INNERS_OF)
    with refused(UnsupportedSpec):
        ctx.by_method(case, draw.pick(["CG", None, Dense], "not a method"))

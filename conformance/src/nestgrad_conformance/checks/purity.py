"""Nothing handed in is changed, and no call leaves a trace in the next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np

from nestgrad import CG, Dense, Implicit, Neumann, tree
from nestgrad_conformance import problems
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.registry import check


@check("Minimize", "Neumann")
def arguments_are_left_bit_identical(ctx: Context, draw: Draw) -> None:
    """params, hparams and both batches have the same bytes after a call as before it."""
    case = problems.quadratic(draw, 4, 2)
    given = [ctx.arrays(x) for x in (case.params, case.hparams, case.inner_batch, case.outer_batch)]
    before = _bytes(ctx, given)
    solvers = ctx.supported([Dense(), CG(rtol=0.0, max_steps=3), Neumann(num_terms=3, step_size=0.5)])
    solver = draw.pick(solvers, "solver")
    ctx.harness.backend.hypergradient(
        case.problem(ctx.harness),
        given[0],
        given[1],
        method=Implicit(solver=solver),
        inner_batch=given[2],
        outer_batch=given[3],
    )
    assert _bytes(ctx, given) == before, "an argument changed"


@check("WeightUpdate", "Neumann", "sgd")
def optimizer_state_is_left_bit_identical(ctx: Context, draw: Draw) -> None:
    """The optimizer state handed in has the same bytes after a call as before it."""
    case = problems.updated_network(draw, per_parameter=False)
    state = case.opt_state(ctx.harness, ctx.arrays)
    before = _bytes(ctx, _arrays_of(state))
    ctx.harness.backend.hypergradient(
        case.problem(ctx.harness),
        ctx.arrays(case.params),
        ctx.arrays(case.hparams),
        method=Implicit(solver=Neumann(num_terms=3, step_size=1.0)),
        inner_batch=ctx.arrays(case.inner_batch),
        outer_batch=ctx.arrays(case.outer_batch),
        opt_state=state,
        throw=False,
    )
    assert _bytes(ctx, _arrays_of(state)) == before, "opt_state changed"


@check("Minimize", "Neumann")
def calls_do_not_influence_one_another(ctx: Context, draw: Draw) -> None:
    """A, then B, then A again: the two answers to A have the same bits."""
    solver = Neumann(num_terms=3, step_size=0.1)
    one, other = problems.tanh_network(draw), problems.tanh_network(draw)
    first = ctx.hypergradient(one, solver, throw=False)
    ctx.hypergradient(other, solver, throw=False)
    again = ctx.hypergradient(one, solver, throw=False)
    assert _bytes(ctx, first.total) == _bytes(ctx, again.total), f"first {first.total}, again {again.total}"


def _arrays_of(state: Any) -> list[Any]:
    if isinstance(state, (dict, list, tuple)):
        children = cast("Iterable[Any]", state.values() if isinstance(state, dict) else state)
        return [leaf for child in children for leaf in _arrays_of(child)]
    return [state] if hasattr(state, "shape") else []


def _bytes(ctx: Context, values: Any) -> list[bytes]:
    return [np.array(ctx.harness.to_numpy(leaf)).tobytes() for leaf in tree.leaves(values)]

"""The device part of many runs: their steps at once, every number of a run its own, nothing read on the way.

All weights are rows of one matrix, a row a run, so that a product with the Jacobian is one backward pass for all runs,
and a norm a run is one of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import (
    GROWTH_LIMIT,
    BilevelProblem,
    Identity,
    Implicit,
    Neumann,
    Stats,
    Status,
    Unrolled,
    WeightUpdate,
    tree,
)
from nestgrad_torch._derivatives import Linearization, functional_optimizer, is_carried
from nestgrad_torch._rules._findings import Findings
from nestgrad_torch._rules.implicit import power_of_two, require_connected
from nestgrad_torch._second_order import require_twice_differentiable, second_order
from nestgrad_torch._tree import Params
from nestgrad_torch.tuners._common import stepped
from nestgrad_torch.tuners._over_runs import EachRun, over_runs, shared_again


@dataclass(frozen=True, slots=True)
class ManyRunsWork:
    """What Work is to one run; states and batches as ManyRuns defines them. shared: whether a batch is one for all."""

    problem: BilevelProblem
    method: Any
    natural: Callable[[Any], Any]
    shared: bool

    @property
    def update(self) -> WeightUpdate:
        """The inner problem of one run."""
        inner = self.problem.inner
        assert isinstance(inner, WeightUpdate)  # noqa: S101  (the tuner's own check)
        return inner

    def train(
        self, point: Params, state: Any, settings: Any, batches: Sequence[Any], *, audit: bool
    ) -> tuple[dict[str, Any], list[Tensor]]:
        """(the state after a training step on each batch, the losses before them)."""
        seen: list[Tensor] = []
        for batch in batches:
            weights = point.fresh()
            losses = self._inner(point.view(weights), settings, batch)
            if audit and not seen:
                require_twice_differentiable(losses, None)
            grads = _gradient(losses, weights)
            params, opt_state = self._stepped(tree.unflatten(point.tree, grads), state, settings)
            state, point = {**state, "params": params, "opt_state": opt_state}, point.holding(params, point.buffers)
            seen.append(losses.detach())
        return state, seen

    def tune(
        self,
        point: Params,
        state: Any,
        inner_batch: Any,
        outer_batch: Any,
        *,
        audit: bool,
    ) -> tuple[dict[str, Any], Tensor, list[Findings]]:
        """(the state after a training step, the losses before it, [the hypergradients in the leaves after it])."""
        leaves = [h.detach().requires_grad_() for h in tree.leaves(state["hparams"])]
        start = tree.unflatten(state["hparams"], leaves)
        rows, values = Rows(point), self.natural(start)
        weights = rows.joined(point.leaves).requires_grad_()
        with second_order(None):
            losses = self._inner(rows.tree(weights), values, inner_batch)
            if audit:
                require_twice_differentiable(losses, None)
            (slope,) = _gradient(losses, [weights], create_graph=True)
            settings = tree.map(torch.detach, values)
            params, opt_state = self._stepped(rows.tree(slope.detach()), state, settings)
            linear = self._linearized(rows, weights, slope, values, leaves, state["opt_state"])
            reached = rows.joined(tree.matched(point.tree, params)[0]).requires_grad_()
            outer = EachRun("outer_loss", self.problem.outer_loss, self.shared)
            found = self._solved(linear, outer(rows.tree(reached), values, outer_batch), reached, start)
        return {**state, "params": params, "opt_state": opt_state}, losses.detach(), [found]

    def fresh_opt_state(self, params: Any, values: Any) -> Any:
        """That of every run's optimizer, of `init`."""

        def begun(p: Any, h: Any) -> Any:
            return functional_optimizer(self.update, h).init(p), p

        with torch.no_grad():
            return tree.map(_own, over_runs("the optimizer", begun, params, values)[0])

    def _inner(self, params: Any, values: Any, batch: Any) -> Tensor:
        return EachRun("inner loss", self.update.loss, self.shared)(params, values, batch)

    @torch.no_grad()
    def _stepped(self, grads: Any, state: Any, settings: Any) -> tuple[Any, Any]:
        def alone(slopes: Any, opt_state: Any, params: Any, values: Any) -> Any:
            return stepped(functional_optimizer(self.update, values), slopes, opt_state, params)

        given = grads, state["opt_state"], state["params"], settings
        params, opt_state = over_runs("the optimizer", alone, *given)
        return params, shared_again(state["opt_state"], opt_state)

    def _linearized(
        self, rows: Rows, weights: Tensor, slope: Tensor, values: Any, leaves: list[Tensor], opt_state: Any
    ) -> Linearization:
        """u, a row a run, or the residual of a whole step where the state is carried."""
        whole = self.update.carry == "weights_and_state"
        states = tree.leaves(opt_state)
        floating = [leaf for leaf in states if whole and is_carried(leaf)]
        inputs = [weights]
        if floating:
            inputs.append(torch.cat([leaf.reshape(len(leaf), -1) for leaf in floating], dim=1).requires_grad_())
            views = iter(_split(inputs[1], [leaf.shape[1:] for leaf in floating]))
            opt_state = tree.unflatten(opt_state, [next(views) if is_carried(x) else x for x in states])

        def alone(row: Tensor, slope: Tensor, state: Any, values: Any) -> tuple[Tensor, Any]:
            rule = functional_optimizer(self.update, values)
            in_one = rule.flat_state(state) if hasattr(rule, "flat_state") and not floating else None
            if in_one is not None:
                return rule.update(slope, in_one, row)[0], None
            params = rows.of_one(row)
            updates, after = rule.update(rows.of_one(slope), state, params)
            moves = _vector(tree.matched(params, updates)[0])
            return moves, [x for x in tree.matched(state, after)[0] if is_carried(x)] if floating else None

        moves, arrived = over_runs("the optimizer", alone, weights, slope, opt_state, values)
        residual = -moves
        if floating:
            arrived = torch.cat([leaf.reshape(len(leaf), -1) for leaf in arrived], dim=1)
            residual = torch.cat([residual, inputs[1] - arrived], dim=1)
        return Linearization(inputs, leaves, residual, symmetric=False, damping=self.method.damping)

    def _solved(self, linear: Linearization, outer: Tensor, reached: Tensor, hparams: Any) -> Findings:
        """direct - Bᵀp of every run, p its series."""
        leaves = linear.hparams
        slope, *direct = _gradient(outer, [reached, *leaves], allow_unused=True)
        slope = torch.zeros_like(reached) if slope is None else slope
        slope = torch.cat([slope, *(torch.zeros_like(x) for x in linear.inputs[1:])], dim=1)
        scale = power_of_two(vector_norm(slope, float("inf"), dim=1))
        unit = slope / scale[:, None]
        solution, terms = _series(self.method.solver, linear, unit)
        pulled = linear.hparam_product(solution)
        require_connected(hparams, [a is not None or b is not None for a, b in zip(direct, pulled, strict=True)])
        rows = zip(leaves, pulled, strict=True)
        indirect = [torch.zeros_like(h) if g is None else g * -beside(scale, g) for h, g in rows]
        direct = [torch.zeros_like(h) if d is None else d for h, d in zip(leaves, direct, strict=True)]
        total = [a + b for a, b in zip(direct, indirect, strict=True)]
        figures = [
            outer.detach(),
            norms(total, 1.0),
            vector_norm(linear.residual.detach(), dim=1),
            vector_norm(linear.inputs[0].detach(), dim=1),
            vector_norm(solution, dim=1) * scale,
            norms(indirect),
            scale,
            *terms,
        ]
        report: Any = partial(_report, self.method, torch.finfo(outer.dtype).eps)  # of figures with an entry a run
        return Findings(
            total=total,
            direct=direct,
            indirect=indirect,
            outer_loss=outer.detach(),
            figures=torch.stack(figures).detach(),
            report=report,
        )


class Rows:
    """Stacked params as a matrix, a row a run, and back."""

    def __init__(self, point: Params) -> None:
        self._like = point.tree
        self._shapes = [leaf.shape[1:] for leaf in point.leaves]

    def joined(self, leaves: Sequence[Tensor]) -> Tensor:
        """(runs, weights): a new matrix without a graph."""
        return torch.cat([leaf.detach().reshape(len(leaf), -1) for leaf in leaves], dim=1)

    def tree(self, matrix: Tensor) -> Any:
        """The stacked params, views of the matrix."""
        return tree.unflatten(self._like, _split(matrix, self._shapes))

    def of_one(self, row: Tensor) -> Any:
        """One run's params, views of its row."""
        parts = row.split_with_sizes([shape.numel() for shape in self._shapes])
        return tree.unflatten(self._like, [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)])


def norms(leaves: Sequence[Tensor], order: float = 2.0) -> Tensor:
    """Of all entries of each run, (runs,)."""
    return vector_norm(torch.cat([leaf.reshape(len(leaf), -1) for leaf in leaves], dim=1), order, dim=1)


def beside(runs: Tensor, like: Tensor) -> Tensor:
    """Numbers (runs,) with the axes of a stacked tensor."""
    return runs.reshape(runs.shape + (1,) * (like.dim() - 1))


def _split(matrix: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    parts = matrix.split_with_sizes([shape.numel() for shape in shapes], dim=1)
    return [part.view(len(matrix), *shape) for part, shape in zip(parts, shapes, strict=True)]


def _vector(leaves: Sequence[Tensor]) -> Tensor:
    return torch.cat([leaf.reshape(-1) for leaf in leaves])


def _own(leaf: Any) -> Any:
    """A tensor with entries of its own, where vmap has expanded one for all runs."""
    return leaf.clone(memory_format=torch.contiguous_format) if isinstance(leaf, Tensor) else leaf


def _gradient(
    losses: Tensor, inputs: list[Tensor], *, create_graph: bool = False, allow_unused: bool = False
) -> list[Any]:
    """Every run's own gradient: a NaN in one loss is in no other's.

    allow_unused: for inputs of a graph that others use as well; None for one that the losses do not use.
    """
    if not losses.requires_grad:
        return [None if allow_unused else torch.zeros_like(x) for x in inputs]
    ones = torch.ones_like(losses)
    keep = {"retain_graph": True, "create_graph": create_graph} if create_graph or allow_unused else {}
    found = torch.autograd.grad(losses, inputs, ones, allow_unused=True, materialize_grads=not allow_unused, **keep)
    return list(found)


def _series(solver: Neumann | Identity, linear: Linearization, rhs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """(the sum, the norms of its terms), a row a run."""
    sizes = [vector_norm(rhs, dim=1)]
    if isinstance(solver, Identity):
        return solver.scale * rhs, sizes
    term = total = rhs
    for _ in range(solver.num_terms - 1):
        term = torch.sub(term, linear.transpose_product(term), alpha=solver.step_size)
        total = total + term
        sizes.append(vector_norm(term, dim=1))
    return solver.step_size * total, sizes


def _report(method: Implicit, eps: float, figures: Tensor) -> tuple[Tensor, Stats]:
    """(the statuses as integers, the statistics), an entry a run, in the order of `_solved`'s figures."""
    loss, size, optimality, params_norm, adjoint_norm, indirect_norm, scale, *terms = figures
    nothing = torch.full_like(loss, float("nan"))
    last, before = terms[-1], terms[-2] if len(terms) > 1 else nothing
    contraction = torch.where(before == 0.0, nothing, last / before)
    finite = loss.isfinite() & size.isfinite() & optimality.isfinite()
    status = _statuses(method, terms, finite=finite, optimality=optimality)
    series = method.solver if isinstance(method.solver, Neumann) else None
    stats = Stats(
        residual_norm=last * scale,
        rhs_norm=terms[0] * scale,
        adjoint_norm=adjoint_norm,
        indirect_norm=indirect_norm,
        steps=torch.full_like(status, len(terms)),
        products=torch.full_like(status, len(terms) - 1),
        inner_optimality=optimality,
        params_norm=params_norm,
        contraction=contraction,
        curvature=nothing if series is None else (1.0 - contraction) / series.step_size,
        asymmetry=nothing,
        kink_distance=nothing,
        eps=eps,
    )
    return status, stats


def window_report(method: Unrolled, found: Findings, last_move: Tensor) -> tuple[Tensor, Stats]:
    """(the statuses as integers, the statistics) of unrolled findings in natural values, an entry a run."""
    nothing = torch.full_like(found.outer_loss, float("nan"))
    adjoint = norms(tree.leaves(found.adjoint)) if found.adjoint is not None else None
    sizes = [norms(tree.leaves(found.params)), norms(found.indirect)]
    there = [found.outer_loss, norms(found.direct), *sizes, *([] if adjoint is None else [adjoint])]
    finite = torch.stack([size.isfinite() for size in there]).all(0)
    status = torch.where(finite, int(Status.TRUNCATED), int(Status.NONFINITE))
    stats = Stats(
        residual_norm=nothing,
        rhs_norm=nothing,
        adjoint_norm=nothing if adjoint is None else adjoint,
        indirect_norm=sizes[1],
        params_norm=sizes[0],
        inner_optimality=last_move,
        steps=torch.full_like(status, method.num_steps),
        products=torch.full_like(status, method.window),
        contraction=nothing,
        curvature=nothing,
        asymmetry=nothing,
        kink_distance=nothing,
        eps=torch.finfo(nothing.dtype).eps,
    )
    return status, stats


def _statuses(method: Implicit, terms: list[Tensor], *, finite: Tensor, optimality: Tensor) -> Tensor:
    """As `growth_status` and the end of `implicit` find them for one run."""
    last, before = terms[-1], terms[-2] if len(terms) > 1 else torch.full_like(terms[-1], float("nan"))
    first, middle = terms[0], terms[(len(terms) - 1) // 2]
    growing = (last > GROWTH_LIMIT * before) & (last > GROWTH_LIMIT * torch.maximum(first, middle))
    if len(terms) > 1:
        anywhere = torch.stack([b > GROWTH_LIMIT * a for a, b in zip(terms, terms[1:], strict=False)]).any(0)
        growing = torch.where(last.isfinite(), growing, anywhere)
    ended = torch.where(finite & last.isfinite(), int(Status.TRUNCATED), int(Status.NONFINITE))
    if method.inner_tol is not None:
        short = (ended == int(Status.TRUNCATED)) & (optimality > method.inner_tol)
        ended = torch.where(short, int(Status.INNER_NOT_CONVERGED), ended)
    return torch.where(growing, int(Status.DIVERGED), ended)

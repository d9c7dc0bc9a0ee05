"""best_response: a user's own solver as a function of hparams that autograd and torch.func differentiate."""

# torch's own annotations of autograd.Function and of torch.func.vjp are wider than what they take and return.
# pyright: reportIncompatibleMethodOverride=false, reportAssignmentType=false

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import (
    DisconnectedHyperparameter,
    Implicit,
    Inner,
    InvalidInput,
    Stats,
    Status,
    UnsupportedSpec,
    WeightUpdate,
    error_for,
    require_legal,
    tree,
)
from nestgrad_torch._derivatives import Linearization, Place, linearize
from nestgrad_torch._residual import residual
from nestgrad_torch._rules.implicit import Extras, solve_adjoint, solve_forward
from nestgrad_torch._second_order import second_order
from nestgrad_torch._tree import as_hparams, flat, split

Solver = Callable[[Any, Any], Any]
"""solve(hparams, batch) -> params."""


def best_response(solve: Solver, *, inner: Inner, method: Implicit, result_like: Any = None) -> Callable[..., Any]:
    """response(hparams, batch=None) -> params: what solve(hparams, batch) returns, differentiable in both arguments.

    solve is never differentiated: it receives tensors without a graph and may do what it likes, as call scipy or run a
    training loop; arrays and numbers that it returns become tensors. dw/dλ = -J⁻¹B by `method` at what it returned, for
    autograd, its double backward, torch.func.grad, vmap and jvp. Derivatives of the second and higher orders are those
    of an exact solution, each with its own solve. result_like: a tree like the result, whose dtypes it is given.

    Raises the solver's error for a linear solve that failed, InnerNotConverged where |F| exceeds method.inner_tol,
    DisconnectedHyperparameter for an input that is differentiated in and does not reach F, and InvalidInput where the
    inner problem holds a tensor that requires grad and is no input.
    """
    if isinstance(inner, WeightUpdate) and inner.carry != "weights":
        raise UnsupportedSpec(
            f"best_response on WeightUpdate(carry={inner.carry!r}), limit: carry='weights', since the solver returns "
            "weights alone. Remedy: pass Minimize(loss), whose response is the same at a solution."
        )
    require_legal(inner, method)
    if not isinstance(method, Implicit):
        raise UnsupportedSpec(
            f"best_response: method {type(method).__name__}, limit: Implicit. Remedy: use Unrolled's "
            "own hypergradient, or Implicit(solver=CG(...))."
        )

    def response(hparams: Any, batch: Any = None) -> Any:
        return respond(Problem(solve, inner, method, result_like), hparams, batch)

    return response


@dataclasses.dataclass(slots=True)
class Problem:
    """One call: the solver, what its result answers to, the structures, and what the solver returned besides."""

    solve: Solver
    inner: Any
    method: Implicit
    result_like: Any = None
    arguments: Any = None
    constants: list[Any] = dataclasses.field(default_factory=list)
    names: list[str] = dataclasses.field(default_factory=list)
    structure: Any = None
    shapes: list[Tensor] = dataclasses.field(default_factory=list)
    connected: list[bool] = dataclasses.field(default_factory=list)
    aux: Any = None

    def given(self, leaves: Sequence[Tensor]) -> tuple[Any, Any]:
        """(hparams, batch) holding these differentiable leaves, in order, among the constants."""
        moving = iter(leaves)
        filled = [next(moving) if constant is _MOVING else constant for constant in self.constants]
        return tree.unflatten(self.arguments, filled)

    def plain(self, vector: Tensor) -> Any:
        """A vector as a tree like the result."""
        return tree.unflatten(self.structure, split(vector, self.shapes))

    def residual(self, weights: Tensor, leaves: Sequence[Tensor]) -> Tensor:
        """F, for torch.func."""
        hparams, batch = self.given(leaves)
        return residual(self.inner, self.plain, weights, hparams, batch)

    def linearize(self, weights: Tensor, leaves: Sequence[Tensor]) -> Linearization:
        """F with a graph of its own."""
        with torch.inference_mode(mode=False), torch.enable_grad(), second_order(None):
            fresh = [leaf.detach().requires_grad_() for leaf in leaves]
            hparams, batch = self.given(fresh)
            start = weights.detach().clone().requires_grad_()
            linear = linearize(self.inner, Place(self.plain, self.plain, start, hparams, fresh), batch, None)
            linear.damping = self.method.damping
            return linear

    def run(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        """The solver's result as tensors without a graph; the structure is noted."""
        with torch.inference_mode(mode=False), torch.enable_grad():
            found = self.solve(*self.given([leaf.detach() for leaf in leaves]))
        like = leaves[0]
        dtypes = [like.dtype] * len(tree.leaves(found))
        if self.result_like is not None:
            dtypes = [getattr(x, "dtype", like.dtype) for x in tree.matched(found, self.result_like)[0]]
        named = zip(tree.named_leaves(found).items(), dtypes, strict=True)
        values = [_as_tensor(name, leaf, dtype, like) for (name, leaf), dtype in named]
        self.structure, self.shapes = found, values
        return values

    def examine(self, weights: Tensor, leaves: Sequence[Tensor]) -> None:
        """Note which inputs reach F; refuse tensors of another graph, and a result that is no solution."""
        linear = self.linearize(weights, leaves)
        _require_closed(linear)
        pulled = linear.hparam_product(torch.zeros_like(weights))
        self.connected = [part is not None for part in pulled]
        if self.method.inner_tol is None:
            return
        size = float(vector_norm(linear.residual.detach()))
        if not size <= self.method.inner_tol:
            status = Status.INNER_NOT_CONVERGED
            stats = Stats(inner_optimality=size, eps=torch.finfo(weights.dtype).eps)
            raise error_for(status, self.method, stats, where="best_response")

    def require_connected(self, needed: Sequence[bool]) -> None:
        """Raise DisconnectedHyperparameter for an input that is differentiated in and does not reach F."""
        for name, there, wanted in zip(self.names, self.connected, needed, strict=True):
            if wanted and not there:
                raise DisconnectedHyperparameter(
                    f"{name}: 0 differentiable paths to the inner residual, limit: at least 1. Remedy: look for "
                    "detach, .item() or an integer cast between them; the solver's own use of it does not count."
                )


class _Moving:
    """The mark, among the constants, of a leaf that is differentiated in."""


_MOVING = _Moving()


def respond(problem: Problem, hparams: Any, batch: Any) -> Any:
    """The differentiable result of one call."""
    hparams = as_hparams(hparams, _first(hparams)) if not isinstance(hparams, _Arguments) else hparams.values
    named = [(f"hparams[{n!r}]" if n else "hparams", x) for n, x in tree.named_leaves(hparams).items()]
    named += [(f"batch[{n!r}]" if n else "batch", x) for n, x in tree.named_leaves(batch).items()]
    moving = [(n, x) for n, x in named if isinstance(x, Tensor) and x.is_floating_point()]
    problem.arguments = (hparams, batch)
    problem.constants = [_MOVING if isinstance(x, Tensor) and x.is_floating_point() else x for _, x in named]
    problem.names = [name for name, _ in moving]
    if not moving:
        raise InvalidInput(
            "best_response: 0 floating tensors among the inputs, limit: at least 1. Remedy: pass hparams."
        )
    outputs = _Response.apply(problem, *(x for _, x in moving))
    return tree.unflatten(problem.structure, list(outputs))


@dataclasses.dataclass(slots=True)
class _Arguments:
    """Positional arguments of any kind, in the place of hparams."""

    values: Any


def respond_to_arguments(problem: Problem, arguments: Any) -> Any:
    """As `respond`, for arguments that may hold anything."""
    return respond(problem, _Arguments(arguments), None)


class _Response(torch.autograd.Function):
    """λ -> w*(λ), leaf by leaf."""

    @staticmethod
    def forward(problem: Problem, *leaves: Tensor) -> tuple[Tensor, ...]:
        values = problem.run(leaves)
        problem.examine(flat(values), leaves)
        return tuple(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        problem, *leaves = inputs
        ctx.problem, ctx.count = problem, len(leaves)
        ctx.save_for_backward(*leaves, *output)
        ctx.save_for_forward(*leaves, *output)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        problem, leaves, weights = _unpacked(ctx)
        problem.require_connected(ctx.needs_input_grad[1:])
        adjoint = _Solve.apply(problem, True, weights, flat(slopes), *leaves)
        _, pull = torch.func.vjp(lambda *given: problem.residual(weights, given), *leaves)
        return (None, *(-part for part in pull(adjoint)))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        problem, leaves, weights = _unpacked(ctx)
        problem.require_connected([tangent is not None for tangent in tangents])
        pushed = _push(lambda *given: problem.residual(weights, given), leaves, _filled(tangents, leaves))
        moved = _Solve.apply(problem, False, weights, -pushed, *leaves)
        return tuple(split(moved, problem.shapes))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], problem: Problem, *leaves: Tensor) -> tuple[Any, Any]:
        rows = [_Response.apply(problem, *row) for row in _rows(info.batch_size, in_dims[1:], leaves)]
        stacked = tuple(torch.stack(column) for column in zip(*rows, strict=True))
        return stacked, (0,) * len(stacked)


class _Solve(torch.autograd.Function):
    """x with A x = v, A being Jᵀ (transposed) or J at (w, λ), damped as the method says."""

    @staticmethod
    def forward(problem: Problem, transposed: bool, weights: Tensor, side: Tensor, *leaves: Tensor) -> Tensor:
        linear = problem.linearize(weights, leaves)
        solve = solve_adjoint if transposed else solve_forward
        return solve(problem.method, linear, side.detach(), Extras(adjoint=problem.plain), throw=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        problem, transposed, weights, _, *leaves = inputs
        ctx.problem, ctx.transposed = problem, transposed
        ctx.save_for_backward(weights, output, *leaves)
        ctx.save_for_forward(weights, output, *leaves)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Any, ...]:
        weights, solution, *leaves = ctx.saved_tensors
        other = _Solve.apply(ctx.problem, not ctx.transposed, weights, slope, *leaves)
        left, right = (solution, other) if ctx.transposed else (other, solution)

        def energy(w: Tensor, *given: Tensor) -> Tensor:
            """⟨Jᵀ left, right⟩."""
            _, pull = torch.func.vjp(lambda x: ctx.problem.residual(x, given), w)
            return pull(left)[0].dot(right)

        _, pull = torch.func.vjp(energy, weights, *leaves)
        by_weights, *by_leaves = pull(torch.ones_like(weights[0]))
        return (None, None, -by_weights, other, *(-part for part in by_leaves))

    @staticmethod
    def jvp(ctx: Any, _: None, __: None, weights_dot: Any, side_dot: Any, *leaves_dot: Any) -> Tensor:
        weights, solution, *leaves = ctx.saved_tensors
        point = (weights, *leaves)

        def product(w: Tensor, *given: Tensor) -> Tensor:
            """A solution."""
            if ctx.transposed:
                return torch.func.vjp(lambda x: ctx.problem.residual(x, given), w)[1](solution)[0]
            return _push(lambda x: ctx.problem.residual(x, given), (w,), (solution,))

        moved = _push(product, point, _filled((weights_dot, *leaves_dot), point))
        side = -moved if side_dot is None else side_dot - moved
        return _Solve.apply(ctx.problem, ctx.transposed, weights, side, *leaves)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], problem: Problem, transposed: bool, *tensors: Tensor
    ) -> tuple[Any, int]:
        rows = [_Solve.apply(problem, transposed, *row) for row in _rows(info.batch_size, in_dims[2:], tensors)]
        return torch.stack(rows), 0


def _unpacked(ctx: Any) -> tuple[Problem, list[Tensor], Tensor]:
    saved = ctx.saved_tensors
    return ctx.problem, list(saved[: ctx.count]), flat(saved[ctx.count :])


def _push(function: Callable[..., Tensor], point: Sequence[Tensor], tangents: Sequence[Tensor]) -> Tensor:
    """The derivative of function along the tangents: the pull-back of its pull-back, which every operation has."""
    value, pull = torch.func.vjp(function, *point)
    _, push = torch.func.vjp(pull, torch.zeros_like(value))
    return push(tuple(tangents))[0]


def _filled(tangents: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(x) if t is None else t for t, x in zip(tangents, like, strict=True)]


def _rows(size: int, dims: Sequence[int | None], tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The arguments of each element of a batch."""
    return [[x if dim is None else x.select(dim, i) for x, dim in zip(tensors, dims, strict=True)] for i in range(size)]


def _as_tensor(name: str, leaf: Any, dtype: torch.dtype, like: Tensor) -> Tensor:
    try:
        value = torch.as_tensor(leaf, device=like.device)
    except (TypeError, ValueError, RuntimeError):
        value = None
    if value is None or value.is_complex() or value.dtype == torch.bool:
        raise InvalidInput(
            f"best_response: the solver returned {type(leaf).__name__} for params[{name!r}], limit: a real tensor, "
            "array or number. Remedy: return a tree of them, and anything else by has_aux."
        )
    value = value.detach().to(dtype)
    return value.clone() if isinstance(leaf, Tensor) else value


def _first(hparams: Any) -> Tensor:
    tensors = [leaf for leaf in tree.leaves(hparams) if isinstance(leaf, Tensor)]
    return tensors[0] if tensors else torch.zeros(())


def _require_closed(linear: Linearization) -> None:
    """Refuse an inner problem that holds a tensor of another graph: its derivative would be lost without a word."""
    known = {id(x) for x in (*linear.inputs, *linear.hparams)}
    seen: set[Any] = set()
    queue = [linear.residual.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in known:
            raise InvalidInput(
                f"best_response: the inner problem holds a tensor of shape {tuple(variable.shape)} that requires grad "
                "and is no input, limit: 0 such tensors. Remedy: pass it in hparams or batch, or .detach() it."
            )
        queue.extend(following for following, _ in node.next_functions)

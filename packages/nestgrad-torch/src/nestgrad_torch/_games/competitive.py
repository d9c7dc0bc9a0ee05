"""(I + η H_o) x = b, or with H_oᵀ, by GMRES; and its answer's derivatives, which are answers of such systems too."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nestgrad import GMRES, CompetitiveGradient
from nestgrad_torch._games.point import Linear, Point
from nestgrad_torch._rules.implicit import power_of_two
from nestgrad_torch._solvers import SOLVERS, Solve, System


@dataclass(frozen=True, slots=True)
class Competitive:
    """The system at a point, linearised; transposed: that of H_oᵀ."""

    spec: CompetitiveGradient
    linear: Linear
    transposed: bool = False

    def solve(self, rhs: Tensor) -> tuple[Solve, float]:
        """(the answer and its numbers, the norm of the right side that these are of), without a graph."""
        linear, rate = self.linear.still(), self.spec.step_size
        products = [linear.push_others, linear.pull_others]
        if self.transposed:
            products.reverse()
        product, adjoint = products
        scale = power_of_two(vector_norm(rhs, math.inf))
        system = System(
            apply=lambda x: torch.add(x, product(x), alpha=rate),
            adjoint=lambda x: torch.add(x, adjoint(x), alpha=rate),
            rhs=rhs / scale,
            scale=scale,
            symmetric=False,
            matrix=lambda: (torch.stack([system.apply(row) for row in torch.eye(len(rhs)).to(rhs)], dim=1), len(rhs)),
            diagonal=lambda: None,
        )
        solve = SOLVERS(as_gmres(self.spec), system)
        assert isinstance(solve, Solve)  # noqa: S101  (as GMRES reads its numbers on the way)
        return dataclasses.replace(solve, solution=solve.solution * scale), float(vector_norm(system.rhs))

    def image(self, leaves: list[Tensor], vector: Tensor) -> Tensor:
        """The system's product with the vector, linearised anew at the leaves and in their graph."""
        old = self.linear.point
        point = Point(old.game, old.by_name(torch.cat(leaves)), old.batch, audit=False, attached=True)
        linear = Linear(point)
        product = linear.pull_others if self.transposed else linear.push_others
        return torch.add(vector, product(vector), alpha=self.spec.step_size)

    def attached(self, answer: Tensor, rhs: Tensor, leaves: list[Tensor]) -> Tensor:
        """An answer in the graph of the right side and of the point's leaves, differentiable as often as asked."""
        return _Answer.apply(self, answer, rhs, *leaves)

    def turned(self) -> Competitive:
        """The transposed system."""
        return dataclasses.replace(self, transposed=not self.transposed)


def as_gmres(spec: CompetitiveGradient) -> GMRES:
    """Its solver."""
    return GMRES(rtol=spec.rtol, max_steps=spec.max_steps)


class _Answer(torch.autograd.Function):
    """x of A x = b: where x̄ is its cotangent and Aᵀ u = x̄, that of b is u, and that of A's leaves -∂⟨u, A x⟩."""

    @staticmethod
    def forward(ctx: Any, task: Competitive, answer: Tensor, rhs: Tensor, *leaves: Tensor) -> Tensor:  # noqa: ARG004
        ctx.task = task
        held = answer.clone()
        ctx.save_for_backward(held, *leaves)
        return held

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Any, ...]:
        (slope,), (answer, *leaves) = slopes, ctx.saved_tensors
        turned = ctx.task.turned()
        solve, _ = turned.solve(slope.detach())
        u = turned.attached(solve.solution, slope, leaves)
        graph = torch.is_grad_enabled()
        with torch.enable_grad():
            # Views, so that the answer, which depends on the leaves too, is held constant here.
            views = [leaf.view_as(leaf) for leaf in leaves]
            image = ctx.task.image(views, answer)
            pulled = torch.autograd.grad(image, views, -u, create_graph=graph, allow_unused=True)
        return None, None, u, *pulled

"""Steps of an inner problem, s_{t+1} = Φ(s_t, λ, batch): s the weights and the optimizer state's floating leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from nestgrad import FixedPoint, WeightUpdate, tree
from nestgrad_torch._derivatives import (
    fresh_state,
    functional_optimizer,
    gradient_with_graph,
    is_carried,
    like_params,
    scalar_loss,
)
from nestgrad_torch._modules import recomputation_refused
from nestgrad_torch._second_order import require_twice_differentiable
from nestgrad_torch._tree import Params, flat
from nestgrad_torch.distributed import ALONE, Group


@dataclass(frozen=True, slots=True)
class Moment:
    """One state: weights in a vector, the optimizer state, the module's buffers.

    loss is the inner loss of the step that led here, where there is one.
    """

    weights: Tensor
    opt_state: Any = None
    buffers: dict[str, Tensor] = field(default_factory=dict)
    loss: Tensor | None = None

    def parts(self) -> list[Tensor]:
        """[weights, floating leaves of the optimizer state]."""
        return [self.weights, *(leaf for leaf in tree.leaves(self.opt_state) if is_carried(leaf))]

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Moment:
        """The same state with function(part) for each of `parts`."""
        leaves = [function(leaf) if is_carried(leaf) else leaf for leaf in tree.leaves(self.opt_state)]
        return Moment(function(self.weights), tree.unflatten(self.opt_state, leaves), self.buffers)

    def detached(self) -> Moment:
        """The values alone."""
        return self.mapped(torch.detach)

    def as_leaves(self) -> Moment:
        """The values as leaves of a new graph."""
        return self.mapped(lambda part: part.detach().requires_grad_())

    def vector(self) -> Tensor:
        """s in one vector."""
        return flat(self.parts())


@dataclass(frozen=True, slots=True)
class Steps:
    """Φ for a WeightUpdate, a FixedPoint or a ProximalGradient, over the params of one point."""

    inner: Any
    point: Params
    _audited: list[bool] = field(default_factory=list)

    def _gradient(self, loss: Tensor, weights: Tensor) -> Tensor:
        """The loss's gradient with its graph; at the first step looked at for what would be wrong in silence."""
        if self._audited:
            return self.point.group.share(gradient_with_graph(loss, weights))
        require_twice_differentiable(loss, self.point.module)
        with recomputation_refused(self.point.module):
            slope = gradient_with_graph(loss, weights)
        self._audited.append(True)
        return self.point.group.share(slope)

    def start(self, values: Any, opt_state: Any, weights: Tensor | None = None) -> Moment:
        """The state given; weights: the point's in one vector, where there is one already."""
        weights = flat([leaf.detach() for leaf in self.point.leaves]) if weights is None else weights.detach()
        buffers = {name: buffer.detach() for name, buffer in self.point.buffers.items()}
        if not isinstance(self.inner, WeightUpdate):
            return Moment(weights, None, buffers)
        with torch.no_grad():
            rule = functional_optimizer(self.inner, tree.map(torch.detach, values))
            state = fresh_state(rule, lambda: self.point.plain(weights), opt_state)
        return Moment(weights, state, buffers)

    def __call__(self, at: Moment, values: Any, batch: Any) -> Moment:
        """The state after one step, with its graph; forward passes change copies of the buffers."""
        buffers = {name: buffer.clone() for name, buffer in at.buffers.items()}
        weights = at.weights if at.weights.requires_grad else at.weights.detach().requires_grad_()
        params = self.point.shape(weights, buffers)
        if isinstance(self.inner, FixedPoint):
            moved = like_params("map", self.inner.map(params, values, batch), self.point.plain(weights))
            return Moment(self.point.group.share(moved), None, buffers)
        loss = scalar_loss(self.inner.loss, "inner loss", params, values, batch)
        slope = self._gradient(loss, weights)
        if isinstance(self.inner, WeightUpdate):
            return self._updated(at, weights, slope, values, buffers, loss)
        arrived = torch.sub(weights, slope, alpha=self.inner.step_size)
        proximal = self.inner.prox(values)(self.point.plain(arrived), self.inner.step_size)
        return Moment(like_params("prox", proximal, self.point.plain(weights)), None, buffers, loss)

    def slope(self, at: Moment, values: Any, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """(the inner loss's gradient with its graph, the buffers after the pass)."""
        buffers = {name: buffer.clone() for name, buffer in at.buffers.items()}
        weights = at.weights if at.weights.requires_grad else at.weights.detach().requires_grad_()
        loss = scalar_loss(self.inner.loss, "inner loss", self.point.shape(weights, buffers), values, batch)
        return self._gradient(loss, weights), buffers

    def _updated(
        self, at: Moment, weights: Tensor, slope: Tensor, values: Any, buffers: dict[str, Tensor], loss: Tensor
    ) -> Moment:
        rule = functional_optimizer(self.inner, values)
        if hasattr(rule, "is_entrywise") and rule.is_entrywise(at.opt_state):
            updates, after = rule.update(slope, at.opt_state, weights)
            return Moment(weights + updates, after, buffers, loss)
        params = self.point.plain(weights)
        updates, after = rule.update(self.point.plain(slope), at.opt_state, params)
        (leaves,) = tree.matched(at.opt_state, after)
        moved = weights + flat(tree.matched(params, updates)[0])
        return Moment(moved, tree.unflatten(at.opt_state, leaves), buffers, loss)


@dataclass(slots=True)
class Pieces:
    """One step's graph: its leaves, what it led to, the hyperparameters' leaves, and the processes that share it."""

    entering: list[Tensor]
    leaving: list[Tensor]
    hparams: list[Tensor]
    group: Group = ALONE
    _pulled: tuple[list[Tensor], list[Tensor | None]] | None = None

    def pull(self, adjoint: list[Tensor], *, keep: bool = False) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """(Aᵀ adjoint, Bᵀ adjoint)."""
        rows = [(s, a) for s, a in zip(self.leaving, adjoint, strict=True) if s.requires_grad]
        inputs = [*self.entering, *self.hparams]
        if not rows:
            return [None] * len(self.entering), [None] * len(self.hparams)
        outputs, seeds = [s for s, _ in rows], [a for _, a in rows]
        pulled = self.group.mean(torch.autograd.grad(outputs, inputs, seeds, retain_graph=keep, allow_unused=True))
        return list(pulled[: len(self.entering)]), list(pulled[len(self.entering) :])

    def push(self, tangent: list[Tensor], direction: list[Tensor]) -> list[Tensor]:
        """A tangent + B direction: the derivative of ⟨Aᵀu, tangent⟩ + ⟨Bᵀu, direction⟩ in u."""
        if self._pulled is None:
            self._pulled = self._pulled_back()
        dummies, pulled = self._pulled
        rows = [
            (p, x) for p, x in zip(pulled, [*tangent, *direction], strict=True) if p is not None and p.requires_grad
        ]
        if not rows:
            return [torch.zeros_like(s) for s in self.leaving]
        outputs, seeds = [p for p, _ in rows], [x for _, x in rows]
        pushed = torch.autograd.grad(outputs, dummies, seeds, retain_graph=True, allow_unused=True)
        pushed = self.group.mean(pushed)
        return [torch.zeros_like(s) if p is None else p for s, p in zip(self.leaving, pushed, strict=True)]

    def connected(self) -> list[bool]:
        """For each hyperparameter, whether a differentiable path leads from it to what the step led to."""
        if self._pulled is None:
            self._pulled = self._pulled_back()
        return [part is not None for part in self._pulled[1][len(self.entering) :]]

    def _pulled_back(self) -> tuple[list[Tensor], list[Tensor | None]]:
        dummies = [torch.zeros_like(s, requires_grad=True) for s in self.leaving]
        rows = [(s, u) for s, u in zip(self.leaving, dummies, strict=True) if s.requires_grad]
        inputs = [*self.entering, *self.hparams]
        if not rows:
            return dummies, [None] * len(inputs)
        outputs, seeds = [s for s, _ in rows], [u for _, u in rows]
        return dummies, list(torch.autograd.grad(outputs, inputs, seeds, create_graph=True, allow_unused=True))


def traced(steps: Steps, at: Moment, values: Any, hparams: list[Tensor], batch: Any) -> tuple[Moment, Pieces]:
    """(the state after one step without its graph, the graph)."""
    entering = at.as_leaves()
    leaving = steps(entering, values, batch)
    return leaving.detached(), Pieces(entering.parts(), leaving.parts(), hparams, steps.point.group)


class Held(Protocol):
    """What holds tensors, on the devices whose generators matter."""

    leaves: list[Tensor]


class Draws:
    """The random number generators' states at one point of a run, to come back to."""

    def __init__(self, point: Held, before: Draws | None = None) -> None:
        """before: an earlier point, whose copy is shared where nothing was drawn since."""
        self.cpu = torch.get_rng_state()
        if before is not None and torch.equal(before.cpu, self.cpu):
            self.cpu = before.cpu
        devices = sorted({leaf.device.index for leaf in point.leaves if leaf.device.type == "cuda"})
        self._cuda = {index: torch.cuda.get_rng_state(index) for index in devices}

    def again(self) -> None:
        """Set the generators back."""
        torch.set_rng_state(self.cpu)
        for index, state in self._cuda.items():
            torch.cuda.set_rng_state(state, index)

    def as_tree(self) -> dict[str, Any]:
        """The states as a tree of tensors, fit to be part of a saved state."""
        return {"cpu": self.cpu, "cuda": {str(index): state for index, state in self._cuda.items()}}


def draw_again(kept: dict[str, Any]) -> None:
    """Set the generators back to `Draws.as_tree`."""
    torch.set_rng_state(kept["cpu"])
    for index, state in kept["cuda"].items():
        torch.cuda.set_rng_state(state, int(index))

"""The device part of one-pass tuning: steps from tensors to tensors, nothing read on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from nestgrad import BilevelProblem, Implicit, Unrolled, WeightUpdate, tree
from nestgrad_torch._derivatives import (
    Linearization,
    Place,
    functional_optimizer,
    gradient,
    gradient_with_graph,
    linearize,
    scalar_loss,
)
from nestgrad_torch._modules import recomputation_refused
from nestgrad_torch._rules._call import Call
from nestgrad_torch._rules._findings import Findings
from nestgrad_torch._rules.implicit import PLAIN, Extras, implicit, outer_slopes
from nestgrad_torch._second_order import require_twice_differentiable, second_order
from nestgrad_torch._tree import Joint, Params, split
from nestgrad_torch.tuners._common import stepped


@dataclass(frozen=True, slots=True)
class Work:
    """The two kinds of step of one tuner; `natural` turns leaves into values.

    States are the dicts of OnePassState; a step returns a new one without its outer part, and changes none. audit: look
    at the graph for what would be wrong in silence, as a run's first steps do.
    """

    problem: BilevelProblem
    method: Implicit | Unrolled | None
    natural: Callable[[Any], Any]

    @property
    def update(self) -> WeightUpdate:
        """The inner problem."""
        inner = self.problem.inner
        assert isinstance(inner, WeightUpdate)  # noqa: S101  (check_one_pass)
        return inner

    def train(
        self, point: Params, state: Any, settings: Any, batches: Sequence[Any], *, audit: bool
    ) -> tuple[dict[str, Any], list[Tensor]]:
        """(the state after a training step on each batch, the losses before them)."""
        return trained(self.update, point, state, settings, batches, audit=audit)

    def tune(
        self,
        point: Params,
        state: Any,
        inner_batch: Any,
        outer_batch: Any,
        *,
        audit: bool,
        methods: Sequence[Implicit] = (),
    ) -> tuple[dict[str, Any], Tensor, list[Findings]]:
        """(the state after a training step, the loss before it, hypergradients in the leaves after it).

        One hypergradient for each of the methods, or that of the tuner's own. The training gradient is shared between
        step and hypergradient; all derivatives of u are taken before the step.
        """
        leaves = [h.detach().requires_grad_() for h in tree.leaves(state["hparams"])]
        start = tree.unflatten(state["hparams"], leaves)
        values, joint, buffers = self.natural(start), Joint(point), point.fresh_buffers()
        weights = joint.vector
        there = Place(joint.shape, point.plain, weights, values, leaves, group=point.group, joint=joint)
        with second_order(point.module):
            with there.lean():
                loss = scalar_loss(self.update.loss, "inner loss", joint.shape(weights, buffers), values, inner_batch)
            joint.require_unchanged()
            if audit:
                require_twice_differentiable(loss, point.module)
            with recomputation_refused(point.module) if audit else contextlib.nullcontext():
                slope = point.group.share(gradient_with_graph(loss, weights))
            (value,) = point.group.mean([loss.detach()])
            settings = tree.map(torch.detach, values)
            rule, grads = functional_optimizer(self.update, settings), split(slope.detach(), point.leaves)
            params, opt_state = stepped(rule, tree.unflatten(point.tree, grads), state["opt_state"], state["params"])
            linear = linearize(self.update, there, inner_batch, state["opt_state"], slope=slope)
            # What is let go of here takes as much memory as the weights, each.
            del loss, slope, grads
            arrived = Joint(point.holding(params, buffers))
            at_end = arrived.shape(arrived.vector)
            outer = scalar_loss(self.problem.outer_loss, "outer_loss", at_end, values, outer_batch)
            arrived.require_unchanged()
            slopes = [outer_slopes(linear, outer, arrived.vector)]
            del arrived, at_end, outer
            extras, found = self._extras(point, state, linear), []
            methods = methods or (cast("Implicit", self.method),)  # others have a rule of their own
            slopes *= len(methods)
            for method in methods:
                linear.damping, last = method.damping, len(slopes) == 1
                found.append(implicit(method, linear, slopes.pop(), start, extras=extras, last=last))
        return {**state, "params": params, "opt_state": opt_state, "buffers": buffers}, value, found

    def _extras(self, point: Params, state: Any, linear: Linearization) -> Extras:
        """The adjoint that a state carries, for the solve to start from, and how it becomes a tree."""
        if "adjoint" not in state:
            return PLAIN
        call = Call(problem=self.problem, point=point, hparams=state["hparams"])
        start = call.adjoint_vector(state["adjoint"], linear, "state['adjoint']")
        return Extras(start=start, adjoint=lambda vector: call.adjoint_tree(vector, linear))


def trained(
    update: WeightUpdate, point: Params, state: Any, settings: Any, batches: Sequence[Any], *, audit: bool
) -> tuple[dict[str, Any], list[Tensor]]:
    """(the state after a training step on each batch, the losses before them); settings: the values without a graph."""
    rule, losses = functional_optimizer(update, settings), list[Tensor]()
    params, opt_state = state["params"], state["opt_state"]
    for batch in batches:
        buffers, weights = point.fresh_buffers(), point.fresh()
        loss = scalar_loss(update.loss, "inner loss", point.view(weights, buffers), settings, batch)
        with recomputation_refused(point.module) if audit and not losses else contextlib.nullcontext():
            value, *grads = point.group.mean([loss.detach(), *gradient(loss, weights)])
        params, opt_state = stepped(rule, tree.unflatten(point.tree, grads), opt_state, params)
        point = point.holding(params, buffers)
        losses.append(value)
    return {**state, "params": params, "opt_state": opt_state, "buffers": point.buffers}, losses

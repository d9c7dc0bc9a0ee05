"""One-pass tuning in torch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nestgrad import (
    BilevelProblem,
    HyperGradient,
    Implicit,
    InvalidInput,
    OnePassInfo,
    OnePassState,
    Space,
    check_one_pass,
    error_for,
    tree,
)
from nestgrad_torch._derivatives import Place, gradient, gradient_with_graph, linearize, scalar_loss
from nestgrad_torch._modules import recomputation_refused
from nestgrad_torch._rules.implicit import implicit
from nestgrad_torch._second_order import require_twice_differentiable, second_order
from nestgrad_torch._tree import Params, check_matching, split
from nestgrad_torch.tuners._common import (
    Tuner,
    is_finite,
    require_callable,
    require_steppable,
    with_gradients,
)


class OnePass(Tuner):
    """Tune hparams during one training run; nestgrad._tuners.one_pass defines each step (Clarke et al. 2022).

    problem: its inner problem is a WeightUpdate. hparams: a tree of spaces, each holding the initial natural value.
    every: training steps per hyper step. method: Implicit, with Neumann, Identity or Dense. outer_optimizer: takes a
    list of leaf tensors and returns a torch.optim optimizer, as functools.partial(torch.optim.Adam, lr=0.05) does; it
    is called for every hyper step, its moments being in the state.

    throw: raise when a hypergradient is NaN or infinite (NonFinite, or the solver's own error); otherwise
    info.hypergradient.status says so. A series that diverges and is finite is not an error here: its few terms are what
    the method defines; the status records it.

    The state is all that there is to a run on a tree of tensors. With an nn.Module, the layers, the frozen params and
    the training mode are those of the module last given to `init`: call it before going on from a state on disk.
    """

    def __init__(
        self,
        problem: BilevelProblem,
        *,
        hparams: Any,
        every: int,
        method: Implicit,
        outer_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
        throw: bool = True,
    ) -> None:
        super().__init__(check_one_pass(problem, hparams, every, method), hparams)
        self.problem, self.every, self.method = problem, every, method
        self.outer_optimizer, self.throw = outer_optimizer, throw
        require_callable("OnePass", outer_optimizer)

    @torch.inference_mode(mode=False)
    def init(self, params: Any) -> OnePassState:
        """The state before the first step. params: a tree of tensors or an nn.Module; its values are copied."""
        state = self._begin(params)
        require_steppable("OnePass", self.outer_optimizer, state["hparams"])
        return {**state, "outer_opt_state": [{} for _ in tree.leaves(state["hparams"])]}  # type: ignore[return-value]

    def step(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """One training step, and a hyper step when `every` divides the count; the state passed in is not changed."""
        return with_gradients(self._step, state, inner_batch, outer_batch)

    def _step(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        tuned = (state["step"] + 1) % self.every == 0
        point = self._point(state)
        if state["step"] < self.every:
            check_matching(point, hparams=state["hparams"], inner_batch=inner_batch, outer_batch=outer_batch)
        after: OnePassState = {**state, "step": state["step"] + 1, "buffers": point.fresh_buffers()}
        if tuned:
            with second_order(point.module):
                loss, found = self._tune(after, point, state, inner_batch, outer_batch)
            settings = self.values(after)
        else:
            settings, found = self._recall.about(state["hparams"])
            weights = point.fresh()
            loss = self._inner_loss(point.view(weights, after["buffers"]), settings, inner_batch)
            with recomputation_refused(point.module) if not state["step"] else contextlib.nullcontext():
                grads = gradient(loss, weights)
            self._advance(after, point, grads, state, settings)
        return after, OnePassInfo(inner_loss=loss.detach(), tuned=tuned, hypergradient=found, hparams=settings)

    def _tune(
        self, after: OnePassState, point: Params, state: OnePassState, inner_batch: Any, outer_batch: Any
    ) -> tuple[Tensor, HyperGradient]:
        """A training step and a hyper step, written into `after`; the training gradient is shared between the two."""
        leaves = [h.detach().requires_grad_() for h in tree.leaves(state["hparams"])]
        start = tree.unflatten(state["hparams"], leaves)
        values, weights = self._natural(start), point.vector()
        loss = self._inner_loss(point.shape(weights, after["buffers"]), values, inner_batch)
        if state["step"] < self.every:
            require_twice_differentiable(loss, point.module)
            with recomputation_refused(point.module):
                slope = gradient_with_graph(loss, weights)
        else:
            slope = gradient_with_graph(loss, weights)
        self._advance(after, point, split(slope.detach(), point.leaves), state, self.values(state))
        place = Place(point.shape, point.plain, weights, values, leaves)
        linear = linearize(self._update, place, inner_batch, state["opt_state"], slope=slope)
        linear.damping = self.method.damping
        arrived = point.holding(after["params"], after["buffers"])
        new_weights = arrived.vector()
        outer = scalar_loss(self.problem.outer_loss, "outer_loss", arrived.shape(new_weights), values, outer_batch)

        def watch(norm: float) -> None:
            self._watch.see(norm, step=after["step"])

        found = implicit(self.method, linear, outer, new_weights, start, throw=False, watch=watch)
        if self.throw and not found.status.ok and not is_finite(found):
            raise error_for(found.status, self.method, found.stats, where=f"training step {after['step']}")
        grads = tree.leaves(found.total)
        after["hparams"], after["outer_opt_state"] = self._move(self.outer_optimizer, state, grads)
        return loss, found


def per_parameter(space: Space, params: Any) -> Space:
    """The space with its initial number spread over every entry of params: one hyperparameter a weight.

    params: a tree of tensors or an nn.Module.
    """
    if not isinstance(space.initial, (int, float)):
        raise InvalidInput(
            f"per_parameter: initial value of type {type(space.initial).__name__}, limit: a number. "
            "Remedy: pass Log10(1e-3)."
        )
    point = Params(params)
    return space.starting_at(
        tree.unflatten(point.tree, [torch.full_like(p, float(space.initial)) for p in point.leaves])
    )

"""One-pass tuning in torch."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nestgrad import (
    BilevelProblem,
    HyperGradient,
    Implicit,
    InvalidInput,
    OnePassInfo,
    OnePassState,
    Space,
    UnsupportedOptimizer,
    check_one_pass,
    error_for,
    initial_values,
    map_spaces,
    require_initial,
    tree,
)
from nestgrad_torch._derivatives import (
    Place,
    functional_optimizer,
    gradient,
    gradient_with_graph,
    linearize,
    scalar_loss,
)
from nestgrad_torch._rules.implicit import implicit
from nestgrad_torch._space_ops import OPS
from nestgrad_torch._tree import Params, as_hparams, check_matching, split
from nestgrad_torch.tuners._recall import Recall


class OnePass:
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
        self._update = check_one_pass(problem, hparams, every, method)
        self.problem, self.spaces, self.every, self.method = problem, hparams, every, method
        self.outer_optimizer, self.throw = outer_optimizer, throw
        if not callable(outer_optimizer):
            raise UnsupportedOptimizer(
                f"OnePass.outer_optimizer: got {type(outer_optimizer).__name__}, limit: a function of the leaves. "
                "Remedy: functools.partial(torch.optim.Adam, lr=0.05)."
            )
        self._structure: Params | None = None
        self._spaces: list[Space] = []
        self._recall = Recall(self._natural)

    @torch.inference_mode(mode=False)
    def init(self, params: Any) -> OnePassState:
        """The state before the first step. params: a tree of tensors or an nn.Module; its values are copied."""
        point = Params(params)
        self._structure = point
        like = point.leaves[0]
        initial = as_hparams(initial_values(self.spaces), like)
        check_matching(point, hparams=initial)
        require_initial(self.spaces, initial, lambda value: (float(value.min()), float(value.max())))
        start = map_spaces(lambda space, value: space.unconstrained(value, OPS).detach(), self.spaces, initial)
        weights = tree.unflatten(point.tree, [p.detach().clone() for p in point.leaves])
        with torch.no_grad():
            rule = functional_optimizer(self._update, self._natural(start))
            opt_state = rule.init(weights)
        _require_steppable(self.outer_optimizer([leaf.clone().requires_grad_() for leaf in tree.leaves(start)]))
        return {
            "params": weights,
            "opt_state": opt_state,
            "hparams": start,
            "outer_opt_state": [{} for _ in tree.leaves(start)],
            "step": 0,
            "buffers": dict(point.buffers),
        }

    def step(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        """One training step, and a hyper step when `every` divides the count; the state passed in is not changed."""
        if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
            with torch.inference_mode(mode=False), torch.enable_grad():
                return self._step(state, inner_batch, outer_batch)
        # Entering those contexts costs as much as a small layer, so only where they change something.
        return self._step(state, inner_batch, outer_batch)

    def _step(self, state: OnePassState, inner_batch: Any, outer_batch: Any) -> tuple[OnePassState, OnePassInfo]:
        tuned = (state["step"] + 1) % self.every == 0
        structure = Params(state["params"]) if self._structure is None else self._structure
        point = structure.holding(state["params"], state["buffers"])
        if state["step"] < self.every:
            check_matching(point, hparams=state["hparams"], inner_batch=inner_batch, outer_batch=outer_batch)
        after: OnePassState = {**state, "step": state["step"] + 1, "buffers": point.fresh_buffers()}
        if tuned:
            loss, found = self._tune(after, point, state, inner_batch, outer_batch)
            settings = self.values(after)
        else:
            settings, found = self._recall.about(state["hparams"])
            weights = point.fresh()
            loss = self._inner_loss(point.view(weights, after["buffers"]), settings, inner_batch)
            self._advance(after, point, gradient(loss, weights), state, settings)
        return after, OnePassInfo(inner_loss=loss.detach(), tuned=tuned, hypergradient=found, hparams=settings)

    def values(self, state: OnePassState) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return self._recall.about(state["hparams"])[0]

    def module(self, state: OnePassState) -> nn.Module:
        """A copy of the module given to `init`, holding the trained params and buffers."""
        if self._structure is None or self._structure.module is None:
            raise InvalidInput(
                "OnePass.module: init was given 0 modules, limit: 1. "
                "Remedy: call init(module) first; a tree of tensors is in state['params']."
            )
        trained = copy.deepcopy(self._structure.module)
        with torch.no_grad():
            for name, param in trained.named_parameters():
                if name in state["params"]:
                    param.copy_(state["params"][name])
            for name, buffer in trained.named_buffers():
                buffer.copy_(state["buffers"][name])
        return trained

    def torch_optimizer(self, state: OnePassState, module: nn.Module) -> torch.optim.Optimizer:
        """A plain torch.optim optimizer over module's trainable params, with the tuned values and the run's state."""
        rule = functional_optimizer(self._update, self.values(state))
        if not hasattr(rule, "torch_optimizer"):
            raise UnsupportedOptimizer(
                f"OnePass.torch_optimizer: {type(rule).__name__} names no torch.optim counterpart. "
                "Remedy: use nestgrad_torch.optim.sgd, or give the rule a torch_optimizer method."
            )
        trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        odd = sorted(trainable.keys() ^ tree.named_leaves(state["params"]).keys())
        if odd:
            raise InvalidInput(
                f"OnePass.torch_optimizer: {len(odd)} names are in one of module and state['params'] only, limit 0, "
                f"the first is {odd[0]!r}. Remedy: pass tuner.module(state)."
            )
        return rule.torch_optimizer(trainable, state["opt_state"])

    def _natural(self, leaves: Any) -> Any:
        if not self._spaces:
            self._spaces = tree.leaves(map_spaces(lambda space, _: space, self.spaces, leaves))
        values = [space.natural(leaf, OPS) for space, leaf in zip(self._spaces, tree.leaves(leaves), strict=True)]
        return tree.unflatten(leaves, values)

    def _tune(
        self, after: OnePassState, point: Params, state: OnePassState, inner_batch: Any, outer_batch: Any
    ) -> tuple[Tensor, HyperGradient]:
        """A training step and a hyper step, written into `after`; the training gradient is shared between the two."""
        leaves = [h.detach().requires_grad_() for h in tree.leaves(state["hparams"])]
        start = tree.unflatten(state["hparams"], leaves)
        values, weights = self._natural(start), point.vector()
        loss = self._inner_loss(point.shape(weights, after["buffers"]), values, inner_batch)
        slope = gradient_with_graph(loss, weights)
        self._advance(after, point, split(slope.detach(), point.leaves), state, self.values(state))
        place = Place(point.shape, point.plain, weights, values, leaves)
        linear = linearize(self._update, place, inner_batch, state["opt_state"], slope=slope)
        linear.damping = self.method.damping
        arrived = point.holding(after["params"], after["buffers"])
        new_weights = arrived.vector()
        outer = scalar_loss(self.problem.outer_loss, "outer_loss", arrived.shape(new_weights), values, outer_batch)
        found = implicit(self.method, linear, outer, new_weights, start, throw=False)
        if self.throw and not found.status.ok and not _is_finite(found):
            raise error_for(found.status, self.method, found.stats, where=f"training step {after['step']}")
        after["hparams"], after["outer_opt_state"] = self._move(state, tree.leaves(found.total))
        return loss, found

    def _inner_loss(self, params: Any, values: Any, batch: Any) -> Tensor:
        return scalar_loss(self.problem.inner.loss, "inner loss", params, values, batch)

    @torch.no_grad()
    def _advance(
        self, after: OnePassState, point: Params, grads: list[Tensor], state: OnePassState, settings: Any
    ) -> None:
        """The weight step, written into `after`: the same arithmetic whether or not a hyper step follows.

        settings: the values without a graph, lest a rule that keeps them in its state keep the graph too.
        """
        rule = functional_optimizer(self._update, settings)
        slopes = tree.unflatten(point.tree, grads)
        if hasattr(rule, "step"):
            after["params"], after["opt_state"] = rule.step(slopes, state["opt_state"], state["params"])
        else:
            updates, after["opt_state"] = rule.update(slopes, state["opt_state"], state["params"])
            after["params"] = tree.map(torch.add, state["params"], updates)

    @torch.no_grad()
    def _move(self, state: OnePassState, grads: list[Tensor]) -> tuple[Any, list[dict[str, Any]]]:
        """One outer optimizer step from the state's leaves and moments, which are copied; then the clip."""
        leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(state["hparams"])]
        optimizer = self.outer_optimizer(leaves)
        for leaf, grad, kept in zip(leaves, grads, state["outer_opt_state"], strict=True):
            leaf.grad = grad
            if kept:
                optimizer.state[leaf] = {k: v.clone() if isinstance(v, Tensor) else v for k, v in kept.items()}
        optimizer.step()
        moved = [_clip(space, leaf.detach()) for space, leaf in zip(self._spaces, leaves, strict=True)]
        return tree.unflatten(state["hparams"], moved), [dict(optimizer.state[leaf]) for leaf in leaves]


def _require_steppable(optimizer: Any) -> None:
    """Refuse what is no torch.optim optimizer, and one whose step needs a closure."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UnsupportedOptimizer(
            f"OnePass.outer_optimizer returned {type(optimizer).__name__}, limit: a torch.optim.Optimizer. "
            "Remedy: functools.partial(torch.optim.Adam, lr=0.05)."
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UnsupportedOptimizer(
            f"OnePass.outer_optimizer: {type(optimizer).__name__} evaluates a closure several times a step, limit: 1 "
            "gradient a step. Remedy: functools.partial(torch.optim.Adam, lr=0.05)."
        )


def _is_finite(found: HyperGradient) -> bool:
    return all(bool(t.isfinite().all()) for t in [*tree.leaves(found.total), found.outer_loss])


def _clip(space: Space, leaf: Tensor) -> Tensor:
    if space.clip is None:
        return leaf
    low, high = (space.unconstrained(leaf.new_tensor(end), OPS) for end in space.clip)
    return torch.maximum(torch.minimum(leaf, high), low)


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

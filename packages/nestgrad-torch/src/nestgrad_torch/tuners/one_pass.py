"""One-pass tuning in torch."""

from __future__ import annotations

import copy
import math
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
    Stats,
    Status,
    UnsupportedOptimizer,
    check_one_pass,
    error_for,
    initial_values,
    map_spaces,
    require_initial,
    tree,
)
from nestgrad_torch._derivatives import functional_optimizer, gradient, linearize, scalar_loss
from nestgrad_torch._rules.implicit import implicit
from nestgrad_torch._space_ops import OPS
from nestgrad_torch._tree import Params, as_hparams, check_matching


class OnePass:
    """Tune hparams during one training run; nestgrad._tuners.one_pass defines each step (Clarke et al. 2022).

    problem: its inner problem is a WeightUpdate. hparams: a tree of spaces, each holding the initial natural value.
    every: training steps per hyper step. method: Implicit, with Neumann, Identity or Dense. outer_optimizer: takes a
    list of leaf tensors and returns a torch.optim optimizer, as functools.partial(torch.optim.Adam, lr=0.05) does.
    throw: raise NonFinite when a hypergradient is NaN or infinite; otherwise info.hypergradient.status says so. A series
    that diverges is not an error here: its few terms are what the method defines; the status records it.
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
        self._module: nn.Module | None = None
        self._last_values: tuple[Any, Any] = (None, None)

    def init(self, params: Any) -> OnePassState:
        """The state before the first step. params: a tree of tensors or an nn.Module, which is copied, never changed."""
        point = Params(params)
        self._module = point.module
        like = point.leaves[0]
        initial = as_hparams(initial_values(self.spaces), like)
        check_matching(point, hparams=initial)
        require_initial(self.spaces, initial, lambda value: (float(value.min()), float(value.max())))
        start = map_spaces(lambda space, value: space.unconstrained(value, OPS).detach(), self.spaces, initial)
        weights = tree.unflatten(point.tree, [p.detach().clone() for p in point.leaves])
        with torch.no_grad():
            rule = functional_optimizer(self._update, self._natural(start))
            opt_state = rule.init(weights)
        trial = self.outer_optimizer([leaf.clone() for leaf in tree.leaves(start)])
        if not isinstance(trial, torch.optim.Optimizer):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UnsupportedOptimizer(
                f"OnePass.outer_optimizer returned {type(trial).__name__}, limit: a torch.optim.Optimizer. "
                "Remedy: functools.partial(torch.optim.Adam, lr=0.05)."
            )
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
        tuned = (state["step"] + 1) % self.every == 0
        point = self._point(state)
        if state["step"] < self.every:
            check_matching(point, hparams=state["hparams"], inner_batch=inner_batch, outer_batch=outer_batch)
        with torch.enable_grad():
            leaves = [h.detach().requires_grad_(tuned) for h in tree.leaves(state["hparams"])]
            start: Any = tree.unflatten(state["hparams"], leaves)
            natural = self._natural(start) if tuned else self.values(state)
            weights = point.fresh()
            buffers = {name: b.clone() for name, b in state["buffers"].items()}
            loss = scalar_loss(self.problem.inner.loss, "inner loss", point.view(weights, buffers), natural, inner_batch)
            grads = gradient(loss, weights, create_graph=tuned)
            moved, opt_state = self._advance(point, grads, state)
            after: OnePassState = {**state, "params": moved, "opt_state": opt_state, "step": state["step"] + 1, "buffers": buffers}
            if not tuned:
                return after, OnePassInfo(
                    inner_loss=loss.detach(), tuned=False, hypergradient=self._idle(state), hparams=natural
                )
            linear = linearize(self._update, point.view, weights, natural, leaves, grads, state["opt_state"])
            arrived = [w.detach().requires_grad_() for w in tree.leaves(moved)]
            seen = {name: b.clone() for name, b in buffers.items()}
            outer = scalar_loss(self.problem.outer_loss, "outer_loss", point.view(arrived, seen), natural, outer_batch)
            found = implicit(self.method, linear, outer, arrived, start, throw=False)
        if self.throw and found.status is Status.NONFINITE:
            raise error_for(found.status, self.method, found.stats, where=f"training step {after['step']}")
        after["hparams"], after["outer_opt_state"] = self._move(state, tree.leaves(found.total))
        return after, OnePassInfo(inner_loss=loss.detach(), tuned=True, hypergradient=found, hparams=self.values(after))

    def values(self, state: OnePassState) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        kept, values = self._last_values
        if kept is not state["hparams"]:
            with torch.no_grad():
                values = self._natural(state["hparams"])
            self._last_values = (state["hparams"], values)
        return values

    def module(self, state: OnePassState) -> nn.Module:
        """A copy of the module given to `init`, holding the trained params and buffers."""
        if self._module is None:
            raise InvalidInput("OnePass.module: init was given a tree of tensors, limit: an nn.Module. Remedy: read state['params'].")
        trained = copy.deepcopy(self._module)
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
        return rule.torch_optimizer(trainable, state["opt_state"])

    def _natural(self, leaves: Any) -> Any:
        return map_spaces(lambda space, leaf: space.natural(leaf, OPS), self.spaces, leaves)

    def _point(self, state: OnePassState) -> Params:
        if self._module is None:
            return Params(state["params"])
        return Params(self._module, state["buffers"]).holding(state["params"])

    @torch.no_grad()
    def _advance(self, point: Params, grads: list[Tensor], state: OnePassState) -> tuple[Any, Any]:
        """The weight step itself; the same arithmetic whether or not a hyper step follows."""
        rule = functional_optimizer(self._update, self.values(state))
        slopes = tree.unflatten(point.tree, [g.detach() for g in grads])
        if hasattr(rule, "step"):
            return rule.step(slopes, state["opt_state"], state["params"])
        updates, opt_state = rule.update(slopes, state["opt_state"], state["params"])
        return tree.map(torch.add, state["params"], updates), opt_state

    @torch.no_grad()
    def _move(self, state: OnePassState, grads: list[Tensor]) -> tuple[Any, list[dict[str, Any]]]:
        """One outer optimizer step on copies of the leaves and of its state, then the clip."""
        leaves = [leaf.clone().requires_grad_() for leaf in tree.leaves(state["hparams"])]
        optimizer = self.outer_optimizer(leaves)
        for leaf, grad, kept in zip(leaves, grads, state["outer_opt_state"], strict=True):
            leaf.grad = grad
            if kept:
                optimizer.state[leaf] = {k: v.clone() if isinstance(v, Tensor) else v for k, v in kept.items()}
        optimizer.step()
        moved = tree.unflatten(state["hparams"], [leaf.detach() for leaf in leaves])
        return map_spaces(_clip, self.spaces, moved), [dict(optimizer.state[leaf]) for leaf in leaves]

    def _idle(self, state: OnePassState) -> HyperGradient:
        zeros = tree.map(torch.zeros_like, state["hparams"])
        like = tree.leaves(zeros)[0]
        return HyperGradient(
            total=zeros,
            direct=zeros,
            indirect=zeros,
            outer_loss=torch.full((), math.nan, dtype=like.dtype, device=like.device),
            status=Status.IDLE,
            stats=_NO_STATS,
        )


def _clip(space: Space, leaf: Tensor) -> Tensor:
    if space.clip is None:
        return leaf
    low, high = (space.unconstrained(leaf.new_tensor(end), OPS) for end in space.clip)
    return torch.maximum(torch.minimum(leaf, high), low)


_NO_STATS = Stats(
    residual_norm=math.nan,
    rhs_norm=math.nan,
    steps=0,
    products=0,
    inner_optimality=math.nan,
    contraction=math.nan,
    curvature=math.nan,
    asymmetry=math.nan,
    eps=math.nan,
)


def per_parameter(space: Space, params: Any) -> Space:
    """The space with its initial number spread over every entry of params: one hyperparameter a weight.

    params: a tree of tensors or an nn.Module.
    """
    if not isinstance(space.initial, (int, float)):
        raise InvalidInput(f"per_parameter: initial value of type {type(space.initial).__name__}, limit: a number. Remedy: pass Log10(1e-3).")
    point = Params(params)
    return space.starting_at(tree.unflatten(point.tree, [torch.full_like(p, float(space.initial)) for p in point.leaves]))

"""What the tuners share: leaves and natural values, the weight step, the outer step, what a run ends as."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from nestgrad import (
    Event,
    Guard,
    HyperGradient,
    InvalidInput,
    Space,
    UnsupportedModule,
    UnsupportedOptimizer,
    UnsupportedSpec,
    Watch,
    WeightUpdate,
    error_for,
    initial_values,
    map_spaces,
    require_initial,
    tree,
)
from nestgrad_torch._derivatives import functional_optimizer, scalar_loss
from nestgrad_torch._rules._findings import Findings
from nestgrad_torch._space_ops import OPS
from nestgrad_torch._tree import Params, as_hparams, check_matching, flat
from nestgrad_torch.distributed import is_sharded, unwrapped
from nestgrad_torch.tuners._outer_step import moved_by
from nestgrad_torch.tuners._recall import Recall


class Tuned:
    """Spaces, the leaves that move in them, and the outer step."""

    outer_optimizer: Any
    guard: Guard | None = None
    throw: bool = True

    def __init__(self, hparams: Any) -> None:
        self.spaces = hparams
        self._watch = Watch()
        self._spaces: list[Space] = []
        self._recall = Recall(self._natural)

    def values(self, state: Any) -> Any:
        """The hyperparameters' natural values, a tree shaped like hparams."""
        return self._recall.about(state["hparams"])[0]

    def _start(self, point: Params) -> Any:
        """The leaves of the spaces' initial values, beside these params; a new run is watched from there."""
        self._watch = Watch()
        initial = as_hparams(initial_values(self.spaces), point.leaves[0])
        check_matching(point, hparams=initial)
        require_initial(self.spaces, initial, extremes)
        return map_spaces(lambda space, value: space.unconstrained(value, OPS).detach(), self.spaces, initial)

    def _natural(self, leaves: Any) -> Any:
        if not self._spaces:
            self._spaces = tree.leaves(map_spaces(lambda space, _: space, self.spaces, leaves))
        values = [space.natural(leaf, OPS) for space, leaf in zip(self._spaces, tree.leaves(leaves), strict=True)]
        return tree.unflatten(leaves, values)

    def _chain(self, hparams: Any, parts: list[list[Tensor]]) -> list[list[Tensor]]:
        """Derivatives in natural values turned into those in the leaves, for each list of parts."""
        leaves = [leaf.detach().requires_grad_() for leaf in tree.leaves(hparams)]
        values = tree.leaves(self._natural(tree.unflatten(hparams, leaves)))
        return [list(torch.autograd.grad(values, leaves, part, retain_graph=True)) for part in parts]

    def _followed(self, found: HyperGradient, state: Any, after: Any, *others: Tensor) -> Event:
        """The outer step, written into `after`; what the guard did. others: gradients of what else `_move` moves."""
        if self.guard is not None:
            return self._guarded(self.guard, self.outer_optimizer, found, state, after, *others)
        if self.throw and not found.status.ok and not is_finite(found, *others):
            raise error_for(found.status, self, found.stats, where=f"training step {after['step']}")
        self._watch.see(total_norm(found), step=after["step"])
        after.update(self._move(self.outer_optimizer, state, [*tree.leaves(found.total), *others]))
        return Event.NONE

    def _guarded(
        self, guard: Guard, outer_optimizer: Any, found: HyperGradient, state: Any, after: Any, *others: Tensor
    ) -> Event:
        """The outer step that the guard allows, written into `after`, and what was done."""
        event, scale = guard.judge(total_norm(found), finite=is_finite(found, *others))
        after["events"] = {name: n + (event.name.lower() == name) for name, n in state["events"].items()}
        if event is not Event.SKIPPED:
            grads = [grad if scale == 1.0 else grad * scale for grad in (*tree.leaves(found.total), *others)]
            after.update(self._move(outer_optimizer, state, grads))
        return event

    def _move(self, outer_optimizer: Any, state: Any, grads: list[Tensor]) -> dict[str, Any]:
        """What one outer optimizer step makes of the state's leaves and moments, which are copied; after the clip."""
        moved, kept = moved_by(outer_optimizer, tree.leaves(state["hparams"]), state["outer_opt_state"], grads)
        return {"hparams": self._clipped(state["hparams"], moved), "outer_opt_state": kept}

    @torch.no_grad()
    def _clipped(self, like: Any, leaves: list[Tensor]) -> Any:
        """The leaves, each beyond its clip range set to the range's end."""
        return tree.unflatten(like, [_clip(space, x.detach()) for space, x in zip(self._spaces, leaves, strict=True)])


class Tuner(Tuned):
    """Spaces and a weight update, over the params last given to `init`."""

    def __init__(self, update: WeightUpdate, hparams: Any, process_group: Any = None) -> None:
        super().__init__(hparams)
        self._process_group = process_group
        self._update = update
        self._structure: Params | None = None

    def module(self, state: Any) -> nn.Module:
        """A copy of the module given to `init`, holding the trained params and buffers."""
        if self._structure is None or self._structure.module is None:
            raise InvalidInput(
                f"{type(self).__name__}.module: init was given 0 modules, limit: 1. "
                "Remedy: call init(module) first; a tree of tensors is in state['params']."
            )
        if any(is_sharded(p) for p in self._structure.module.parameters()):
            raise UnsupportedModule(
                f"{type(self).__name__}.module: a module of {self._structure.group.size} processes, limit: 1. "
                "Remedy: load state['params'], which holds whole tensors, into the module itself."
            )
        trained = copy.deepcopy(self._structure.module)
        with torch.no_grad():
            for name, param in trained.named_parameters():
                if name in state["params"]:
                    param.copy_(state["params"][name])
            for name, buffer in trained.named_buffers():
                buffer.copy_(state["buffers"][name])
        return trained

    def torch_optimizer(self, state: Any, module: nn.Module) -> torch.optim.Optimizer:
        """A plain torch.optim optimizer over module's trainable params, with the tuned values and the run's state."""
        title = f"{type(self).__name__}.torch_optimizer"
        rule = functional_optimizer(self._update, self.values(state))
        if not hasattr(rule, "torch_optimizer"):
            raise UnsupportedOptimizer(
                f"{title}: {type(rule).__name__} names no torch.optim counterpart. "
                "Remedy: use nestgrad_torch.optim.sgd, or give the rule a torch_optimizer method."
            )
        trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        odd = sorted(trainable.keys() ^ tree.named_leaves(state["params"]).keys())
        if odd:
            raise InvalidInput(
                f"{title}: {len(odd)} names are in one of module and state['params'] only, limit 0, "
                f"the first is {odd[0]!r}. Remedy: pass tuner.module(state)."
            )
        return rule.torch_optimizer(trainable, state["opt_state"])

    def _begin(self, params: Any) -> dict[str, Any]:
        """params, opt_state, hparams, step and buffers of a state before the first step."""
        point = Params(params, self._process_group)
        point.group.require_replicas(flat([leaf.detach() for leaf in point.leaves]))
        self._structure, start = point, self._start(point)
        weights = tree.unflatten(point.tree, [p.detach().clone() for p in point.leaves])
        with torch.no_grad():
            opt_state = functional_optimizer(self._update, self._natural(start)).init(weights)
        return {
            "params": weights,
            "opt_state": opt_state,
            "hparams": start,
            "step": 0,
            "buffers": dict(point.buffers),
        }

    def _point(self, state: Any) -> Params:
        structure = Params(state["params"], self._process_group) if self._structure is None else self._structure
        return structure.holding(state["params"], state["buffers"])

    def _in_leaves(self, hparams: Any, found: Findings) -> Findings:
        """Findings in natural values, turned into those in the leaves; without an adjoint and what the run ended as."""
        direct, indirect = self._chain(hparams, [found.direct, found.indirect])
        total = [a + b for a, b in zip(direct, indirect, strict=True)]
        norms = torch.stack([vector_norm(part, 1) for part in total])
        return dataclasses.replace(
            found,
            total=total,
            direct=direct,
            indirect=indirect,
            figures=torch.cat([found.figures[: -len(total)], norms]),
            adjoint=None,
            params=None,
            opt_state=None,
        )

    def _inner_loss(self, params: Any, values: Any, batch: Any) -> Tensor:
        return scalar_loss(self._update.loss, "inner loss", params, values, batch)


@torch.no_grad()
def stepped(rule: Any, grads: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
    """`advanced`, by the rule of values without a graph, lest one that keeps them in its state keep the graph too."""
    return advanced(rule, grads, opt_state, params)


def advanced(rule: Any, grads: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
    """(params, opt_state) after a rule's step, in torch.optim's own rounding where it has one."""
    if hasattr(rule, "step"):
        return rule.step(grads, opt_state, params)
    updates, opt_state = rule.update(grads, opt_state, params)
    return tree.map(torch.add, params, updates), opt_state


def require_alone(tuner: str, params: Any) -> None:
    """Refuse params that several processes hold."""
    group = unwrapped(params, None)[1]
    if group.size > 1:
        raise UnsupportedSpec(
            f"{tuner}: params of {group.size} processes, limit: 1. Remedy: use OnePass, which takes their means, or "
            "pass whole tensors and the same batches in every process."
        )


def with_gradients(function: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """function(*args, **named) with autograd on, whatever mode the caller is in."""
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        with torch.inference_mode(mode=False), torch.enable_grad():
            return function(*args, **named)
    # Entering those contexts costs as much as a small layer, so only where they change something.
    return function(*args, **named)


def require_callable(tuner: str, outer_optimizer: Any) -> None:
    """Refuse an outer optimizer that is no function of the leaves."""
    if not callable(outer_optimizer):
        raise UnsupportedOptimizer(
            f"{tuner}.outer_optimizer: got {type(outer_optimizer).__name__}, limit: a function of the leaves. "
            "Remedy: functools.partial(torch.optim.Adam, lr=0.05)."
        )


def require_steppable(tuner: str, outer_optimizer: Any, start: Any) -> None:
    """Refuse what is no torch.optim optimizer, and one whose step needs a closure."""
    optimizer = outer_optimizer([leaf.clone().requires_grad_() for leaf in tree.leaves(start)])
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UnsupportedOptimizer(
            f"{tuner}.outer_optimizer returned {type(optimizer).__name__}, limit: a torch.optim.Optimizer. "
            "Remedy: functools.partial(torch.optim.Adam, lr=0.05)."
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UnsupportedOptimizer(
            f"{tuner}.outer_optimizer: {type(optimizer).__name__} evaluates a closure several times a step, limit: 1 "
            "gradient a step. Remedy: functools.partial(torch.optim.Adam, lr=0.05)."
        )


def no_events() -> dict[str, int]:
    """The counts of a guard that has seen nothing."""
    return {"clipped": 0, "skipped": 0}


def is_finite(found: HyperGradient, *others: Tensor) -> bool:
    """Whether the total, the outer loss and the others are."""
    return all(bool(t.isfinite().all()) for t in [*tree.leaves(found.total), found.outer_loss, *others])


def total_norm(found: HyperGradient) -> float:
    """|total| in the leaves."""
    return float(vector_norm(flat(tree.leaves(found.total))))


def extremes(value: Tensor) -> tuple[float, float]:
    """(smallest, largest) entry."""
    return float(value.min()), float(value.max())


def _clip(space: Space, leaf: Tensor) -> Tensor:
    if space.clip is None:
        return leaf
    low, high = (space.unconstrained(leaf.new_tensor(end), OPS) for end in space.clip)
    return torch.maximum(torch.minimum(leaf, high), low)

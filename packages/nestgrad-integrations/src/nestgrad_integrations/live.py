"""One-pass tuning of a training loop that keeps its own nn.Module and torch.optim optimizer."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import nestgrad_torch as ng
from nestgrad import (
    BilevelProblem,
    Guard,
    Implicit,
    InvalidInput,
    Loss,
    Neumann,
    OnePassInfo,
    UnsupportedModule,
    UnsupportedSpec,
    WeightUpdate,
    tree,
)
from nestgrad_integrations import _groups, _taken
from nestgrad_integrations._moment import Before, Moment, Watching, in_eval_mode
from nestgrad_integrations._optimizers import Follower, counterpart, plain_groups

_OWN = ("params", "opt_state", "buffers", "step")
_FIVE_TERMS = Implicit(solver=Neumann(num_terms=5, step_size=1.0))
_ADAM = functools.partial(torch.optim.Adam, lr=0.05)


class LiveOnePass:
    """Tune settings of a torch.optim optimizer while a loop of one's own trains with it; see nestgrad's OnePass.

    module, optimizer: the live ones; SGD, Adam, AdamW, RMSprop or Adagrad over all trainable params. hparams: a dict of
    spaces by the names in optimizer.param_groups, each starting at the value there, which all groups share; but groups
    with a weight_decay of 0, where others have one, keep it. inner_loss, outer_loss: loss(module, hparams, batch),
    called with the module's stand-in; inner_loss is what the loop trains on, outer_loss (the same, if not given) is
    what the hyperparameters lower. every, method, outer_optimizer, warm_start, guard, throw: as OnePass takes them.
    clip_grad_norm: the loop's clipping by global norm. outer_mode: "eval" or "train", the module's mode during the
    outer loss. state: what state_dict gave, to go on from.

    A training step makes two calls:

        loss.backward()
        tuner.before_step(batch)
        optimizer.step()
        tuner.after_step(outer_batch)  # or a function that gives one, called only when it is due

    Every `every`-th step the first keeps a copy of what enters the step, and the second differentiates the update
    there and the outer loss at the weights arrived at, moves the hyperparameters and writes them to param_groups.
    Before, it holds the optimizer's step to its formula (StepMismatch): no derivative is of a step that was not taken.
    Weights, gradients, buffers, modes and random numbers of the loop are not changed.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        hparams: Mapping[str, Any],
        inner_loss: Loss,
        outer_loss: Loss | None = None,
        every: int = 10,
        method: Implicit = _FIVE_TERMS,
        outer_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer] = _ADAM,
        clip_grad_norm: float | None = None,
        outer_mode: str = "eval",
        warm_start: bool = False,
        guard: Guard | None = None,
        throw: bool = True,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        _check_choices(module, every, method, clip_grad_norm, outer_mode)
        known = counterpart(optimizer)
        _groups.check_names(hparams, known, optimizer)
        homes = _groups.homes(module, optimizer)
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.module, self.optimizer, self.every = module, optimizer, every
        self._outer_loss, self._outer_mode = outer_loss or inner_loss, outer_mode
        self._clip_norm = clip_grad_norm
        self._follower = Follower(known, named, homes, _groups.followers(hparams, optimizer))
        self._before: Before | None = None
        self._moment: Moment | None = None
        self._following: tuple[list[Any], _taken.Step] | None = None
        self._steps, self._inside, self._busy = 0, False, False
        self._tuner = ng.OnePass(
            BilevelProblem(WeightUpdate(inner_loss, self._rule), outer_loss=self._outer),
            hparams=dict(hparams),
            every=every,
            method=method,
            outer_optimizer=outer_optimizer,
            warm_start=warm_start,
            guard=guard,
            throw=throw,
        )
        begun = self._tuner.init(module)
        self._state: dict[str, Any] = {key: value for key, value in begun.items() if key not in _OWN}
        self._numbers = self._read()
        if state is not None:
            self.load_state_dict(state)
        self._check_values()
        self._hook = module.register_forward_pre_hook(Watching(self, "_forward_begins"))

    def values(self) -> dict[str, Any]:
        """The hyperparameters' natural values, as tensors."""
        return self._tuner.values(self._state)

    def before_forward(self) -> None:
        """A step begins: note random numbers and buffers as it finds them.

        The module's first call since the last step does so by itself. By hand in a loop that calls the module's layers
        and not the module, or in which a pass may lead to no step.
        """
        if self._due and not self._busy:
            self._before = Before.of(self.module)

    def before_step(self, batch: Any) -> None:
        """After backward, right before optimizer.step(); batch: what inner_loss takes."""
        if self._inside:
            raise InvalidInput(
                "LiveOnePass.before_step: 2 calls since the last after_step, limit 1. "
                "Remedy: one before_step and one after_step for each optimizer.step()."
            )
        self._check_values()
        if self._due:
            self._moment = self._kept(batch)
        self._inside = True

    def after_step(self, outer_batch: Any) -> OnePassInfo | None:
        """Right after optimizer.step(): what the hyper step saw, or None where none was due.

        outer_batch: what outer_loss takes, or a function of no arguments that gives it, called only when due.
        """
        if not self._inside:
            raise InvalidInput(
                "LiveOnePass.after_step: 0 calls of before_step since the last after_step, limit 1. "
                "Remedy: call before_step(batch) before optimizer.step()."
            )
        moment, self._moment, self._before, self._inside = self._moment, None, None, False
        self._steps += 1
        if moment is None:
            return None
        return self._tuned(moment, outer_batch() if callable(outer_batch) else outer_batch)

    def state_dict(self) -> dict[str, Any]:
        """A plain tree of copies: the hyperparameters' leaves, the outer optimizer's state, the count of steps."""
        return {**copy.deepcopy(self._state), "step": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what state_dict gave; the optimizer's own state_dict carries the values in its param_groups."""
        own = self.state_dict()
        odd = sorted(tree.named_leaves(own["hparams"]).keys() ^ tree.named_leaves(state.get("hparams", {})).keys())
        odd += sorted(own.keys() ^ state.keys())
        if odd:
            raise InvalidInput(
                f"LiveOnePass.load_state_dict: {len(odd)} names are in one of the tuner and the state only, limit 0, "
                f"the first is {odd[0]!r}. Remedy: build the tuner with the hparams and options that it was saved with."
            )
        self._state = copy.deepcopy({key: value for key, value in state.items() if key != "step"})
        self._steps, self._inside, self._moment, self._before = int(state["step"]), False, None, None
        self._numbers = self._read()

    def close(self) -> None:
        """Take the hook off the module."""
        self._hook.remove()

    @property
    def _due(self) -> bool:
        return (self._steps + 1) % self.every == 0

    @property
    def _tolerance(self) -> float:
        return _taken.LIMITS[tree.leaves(self._state["hparams"])[0].dtype] / 10.0

    def _check_values(self) -> None:
        _groups.check_values(self.optimizer, self._follower.followed, self._numbers, self._tolerance)

    def _read(self) -> dict[str, Any]:
        return tree.map(float, self.values())

    def _forward_begins(self, *args: Any) -> None:
        if self._before is None:
            self.before_forward()

    def _kept(self, batch: Any) -> Moment:
        """A copy of what enters this step."""
        named = self._follower.named
        _groups.require_gradients(named)
        groups = plain_groups(self.optimizer)
        return Moment(
            batch=batch,
            before=self._before or Before.of(self.module),
            weights={name: p.detach().clone() for name, p in named.items()},
            grads={name: p.grad.detach().clone() for name, p in named.items() if p.grad is not None},
            groups=groups,
            opt_state=self._follower.state(self._follower.rule(groups, self.values()), self.optimizer),
        )

    def _tuned(self, moment: Moment, outer_batch: Any) -> OnePassInfo:
        """A hyper step, and its values written to the optimizer."""
        after = {name: p.detach().clone() for name, p in self._follower.named.items()}
        entering = {"params": moment.weights, "opt_state": moment.opt_state, "buffers": moment.before.buffers}
        state: Any = {**self._state, **entering, "step": self._steps - 1}
        step = _taken.Step(moment.weights, moment.grads, after)
        self._busy, self._following = True, (moment.groups, step)
        try:
            with moment.before.again():
                reached, info = self._tuner.step(state, moment.batch, outer_batch)
        finally:
            self._busy, self._following = False, None
        _taken.require_arrival(reached["params"], step)
        _taken.require_buffers(reached["buffers"], dict(self.module.named_buffers()))
        self._state = {key: value for key, value in reached.items() if key not in _OWN}
        self._numbers = self._read()
        _groups.set_values(self.optimizer, self._follower.followed, self._numbers)
        return info

    def _rule(self, values: Mapping[str, Any]) -> Any:
        """The functional rule at these values; during a hyper step, the one that takes the optimizer's own step."""
        groups, step = self._following or (plain_groups(self.optimizer), None)
        bare = self._follower.rule(groups, values)
        whole = bare if self._clip_norm is None else ng.optim.clipped(bare, self._clip_norm)
        if step is None:
            return whole
        return _taken.Followed(whole, bare, None if self._clip_norm is None else _taken.clipper(self._clip_norm), step)

    def _outer(self, params: Any, hparams: Any, batch: Any) -> Any:
        if self._outer_mode == "train":
            return self._outer_loss(params, hparams, batch)
        with in_eval_mode(self.module):
            return self._outer_loss(params, hparams, batch)


def _check_choices(module: Any, every: Any, method: Any, clip_grad_norm: Any, outer_mode: Any) -> None:
    """Refuse, by name, what has no meaning in a loop that is not ours."""
    if not isinstance(module, nn.Module):
        raise InvalidInput(
            f"LiveOnePass.module: got {type(module).__name__}, limit: an nn.Module. "
            "Remedy: nestgrad_torch.OnePass takes trees of tensors."
        )
    if type(module).__name__ in {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"}:
        raise UnsupportedModule(
            f"LiveOnePass.module: a {type(module).__name__}, limit: 1 process. "
            "Remedy: nestgrad_torch.OnePass(process_group=...), which takes the step itself."
        )
    if every is None:
        raise InvalidInput("LiveOnePass.every: got None, limit: an int of at least 1. Remedy: every=10.")
    if not isinstance(method, Implicit):
        raise UnsupportedSpec(
            f"LiveOnePass.method: got {method!r}, limit: Implicit, which looks at one step only. "
            "Remedy: Implicit(solver=Neumann(num_terms=5, step_size=1.0)), or nestgrad_torch.OnePass for windows."
        )
    if clip_grad_norm is not None and not (isinstance(clip_grad_norm, (int, float)) and clip_grad_norm > 0):
        raise InvalidInput(
            f"LiveOnePass.clip_grad_norm: got {clip_grad_norm!r}, limit: a number above 0. "
            "Remedy: pass the max_norm of clip_grad_norm_, or leave it out."
        )
    if outer_mode not in {"eval", "train"}:
        raise InvalidInput(
            f"LiveOnePass.outer_mode: got {outer_mode!r}, limit: 'eval' or 'train'. Remedy: outer_mode='eval'."
        )

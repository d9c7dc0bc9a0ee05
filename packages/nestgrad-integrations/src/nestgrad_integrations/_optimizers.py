"""The functional rules that stand for torch.optim's optimizers: settings and state, read from the live ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import nestgrad_torch as ng
from nestgrad import UnsupportedOptimizer

Group = Mapping[str, Any]
"""One entry of an optimizer's param_groups."""


@dataclass(frozen=True, slots=True)
class Counterpart:
    """What stands for one class of torch.optim.

    rule(**settings) is the functional rule; settings(group) reads its arguments from a param group; tunable names the
    entries of a group that may be hyperparameters; fixed, those arguments that all groups must share; state maps a key
    of the rule's state to that of the optimizer's.
    """

    rule: Callable[..., Any]
    settings: Callable[[Group], dict[str, Any]]
    tunable: tuple[str, ...]
    state: Mapping[str, str]
    fixed: tuple[str, ...] = ()


def _sgd(group: Group) -> dict[str, Any]:
    still = _is_zero(group["momentum"])  # torch.optim.SGD reads dampening and nesterov only where there is momentum
    return {
        "learning_rate": group["lr"],
        "momentum": group["momentum"],
        "weight_decay": group["weight_decay"],
        "dampening": 0.0 if still else group["dampening"],
        "nesterov": group["nesterov"],
    }


def _adam(group: Group) -> dict[str, Any]:
    b1, b2 = group["betas"]
    settings = {"learning_rate": group["lr"], "b1": b1, "b2": b2, "eps": group["eps"]}
    return {**settings, "weight_decay": group["weight_decay"], "decoupled": group["decoupled_weight_decay"]}


def _adam_rule(*, decoupled: bool, **settings: Any) -> Any:
    return (ng.optim.adamw if decoupled else ng.optim.adam)(**settings)


def _rmsprop(group: Group) -> dict[str, Any]:
    return {
        "learning_rate": group["lr"],
        "decay": group["alpha"],
        **{name: group[name] for name in ("eps", "momentum", "weight_decay", "centered")},
    }


def _adagrad(group: Group) -> dict[str, Any]:
    return {
        "learning_rate": group["lr"],
        **{name: group[name] for name in ("eps", "weight_decay", "lr_decay")},
        "initial_accumulator": group["initial_accumulator_value"],
    }


_ADAM = Counterpart(
    rule=_adam_rule,
    settings=_adam,
    tunable=("lr", "betas", "eps", "weight_decay"),
    state={"m": "exp_avg", "v": "exp_avg_sq"},
    fixed=("decoupled",),
)

_COUNTERPARTS: dict[type, Counterpart] = {
    torch.optim.SGD: Counterpart(
        rule=ng.optim.sgd,
        settings=_sgd,
        tunable=("lr", "momentum", "weight_decay", "dampening"),
        state={"trace": "momentum_buffer"},
        fixed=("nesterov",),
    ),
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.RMSprop: Counterpart(
        rule=ng.optim.rmsprop,
        settings=_rmsprop,
        tunable=("lr", "alpha", "eps", "momentum", "weight_decay"),
        state={"v": "square_avg", "trace": "momentum_buffer", "mean": "grad_avg"},
        fixed=("centered",),
    ),
    torch.optim.Adagrad: Counterpart(
        rule=ng.optim.adagrad,
        settings=_adagrad,
        tunable=("lr", "eps", "weight_decay", "lr_decay"),
        state={"sum": "sum"},
        fixed=("initial_accumulator",),
    ),
}

_REFUSED = {
    "maximize": "minimise the loss times -1",
    "amsgrad": "leave it out: its running maximum has no derivative here",
}
"""Flags of param groups that no counterpart follows, each with what to do instead."""


def counterpart(optimizer: torch.optim.Optimizer) -> Counterpart:
    """The counterpart of an optimizer; UnsupportedOptimizer, by name, where there is none."""
    found = _COUNTERPARTS.get(type(optimizer))
    if found is None:
        known = ", ".join(kind.__name__ for kind in _COUNTERPARTS)
        raise UnsupportedOptimizer(
            f"LiveOnePass: optimizer {type(optimizer).__name__}, limit: torch.optim's {known}, and no subclass. "
            "Remedy: train with one of these, or write its functional rule for nestgrad_torch.OnePass."
        )
    for at, group in enumerate(optimizer.param_groups):
        for flag, remedy in _REFUSED.items():
            if group.get(flag):
                raise UnsupportedOptimizer(
                    f"LiveOnePass: {type(optimizer).__name__} param_groups[{at}][{flag!r}]: True, limit: False. "
                    f"Remedy: {remedy}."
                )
    return found


def plain_groups(optimizer: torch.optim.Optimizer) -> list[Group]:
    """The param groups without their params, tensors among their settings read as numbers."""
    return [{k: _number(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


@dataclass(frozen=True, slots=True)
class Follower:
    """The functional rule of one optimizer's groups, and its state.

    named: the params by name. homes: for each name, the index of the param's group. followed: for each group, the
    hyperparameters that it takes.
    """

    known: Counterpart
    named: Mapping[str, Tensor]
    homes: Mapping[str, int]
    followed: list[tuple[str, ...]]

    def rule(self, groups: list[Group], values: Mapping[str, Any]) -> Any:
        """The rule with these values in place of the groups' own; a setting in which groups differ becomes a tree."""
        rows = [
            self.known.settings({**group, **{name: values[name] for name in names}})
            for group, names in zip(groups, self.followed, strict=True)
        ]
        return self.known.rule(**{name: self._shared(name, [row[name] for row in rows]) for name in rows[0]})

    def state(self, rule: Any, optimizer: torch.optim.Optimizer) -> Any:
        """The rule's state that the optimizer's state stands for, copied."""
        entries = {name: optimizer.state.get(param, {}) for name, param in self.named.items()}
        found = dict(rule.init({name: param.detach() for name, param in self.named.items()}))
        for key, theirs in self.known.state.items():
            if found.get(key) is not None:
                held = {name: entry.get(theirs) for name, entry in entries.items()}
                found[key] = {name: found[key][name] if x is None else x.detach().clone() for name, x in held.items()}
        if "count" in found:
            groups = optimizer.param_groups
            # SGD counts by its momentum buffers, which it keeps only where there is momentum.
            found["count"] = _count({n: e for n, e in entries.items() if e or groups[self.homes[n]].get("momentum", 1)})
        return found

    def _shared(self, name: str, values: list[Any]) -> Any:
        """One setting for all params where the groups agree, else a tree of 0-d tensors by the params' names."""
        first = values[0]
        if all(value is first or (not _is_tensor(first, value) and value == first) for value in values[1:]):
            return first
        if name in self.known.fixed:
            raise UnsupportedOptimizer(
                f"LiveOnePass: param groups differ in {name!r}: {values}, limit: one value. "
                "Remedy: give all groups the same."
            )
        return {
            param: values[at] if _is_tensor(values[at]) else self.named[param].new_tensor(values[at])
            for param, at in self.homes.items()
        }


def _count(entries: Mapping[str, Mapping[str, Any]]) -> int:
    """How many steps the optimizer has taken, or for SGD, which does not count, whether any."""
    steps = {
        name: int(entry["step"]) if "step" in entry else int(entry.get("momentum_buffer") is not None)
        for name, entry in entries.items()
    }
    if not steps:
        return 0
    low, high = min(steps, key=steps.__getitem__), max(steps, key=steps.__getitem__)
    if steps[low] != steps[high]:
        raise UnsupportedOptimizer(
            f"LiveOnePass: the optimizer has taken {steps[high]} steps of {high!r} and {steps[low]} of {low!r}, "
            "limit: one number for all. Remedy: requires_grad_(False) for a param that gets no gradient."
        )
    return steps[low]


def _number(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_number(x) for x in value)
    return float(value) if isinstance(value, Tensor) else value


def _is_tensor(*values: Any) -> bool:
    return any(isinstance(value, Tensor) for value in values)


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 0

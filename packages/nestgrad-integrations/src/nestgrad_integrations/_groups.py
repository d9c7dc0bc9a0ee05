"""Hyperparameters as entries of an optimizer's param_groups: found, compared with what they should be, and set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nestgrad import InvalidInput, UnsupportedOptimizer, tree
from nestgrad_integrations._errors import StepMismatch
from nestgrad_integrations._optimizers import Counterpart


def homes(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """For the name of each trainable param, the index of its group; InvalidInput unless both hold the same params."""
    at = {id(p): i for i, group in enumerate(optimizer.param_groups) for p in group["params"] if p.requires_grad}
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    missing = [name for name, p in named.items() if id(p) not in at]
    if missing:
        raise InvalidInput(
            f"LiveOnePass: {len(missing)} trainable params of the module are not in the optimizer, limit 0, the first "
            f"is {missing[0]!r}. Remedy: requires_grad_(False) for what is not trained."
        )
    foreign = len(at) - len(named)
    if foreign:
        raise InvalidInput(
            f"LiveOnePass: {foreign} trainable params of the optimizer are not in the module, limit 0. "
            "Remedy: pass the module that holds them all."
        )
    return {name: at[id(p)] for name, p in named.items()}


def check_names(hparams: Any, known: Counterpart, optimizer: torch.optim.Optimizer) -> None:
    """Raise InvalidInput unless hparams is a dict whose keys are settings that can be tuned."""
    title, there = type(optimizer).__name__, ", ".join(known.tunable)
    if not isinstance(hparams, Mapping):
        raise InvalidInput(
            f"LiveOnePass.hparams: got {type(hparams).__name__}, limit: a dict by the names in param_groups. "
            "Remedy: {'lr': Log10(1e-3)}."
        )
    for name in hparams:
        if name not in known.tunable:
            raise InvalidInput(
                f"LiveOnePass.hparams[{name!r}]: no setting of {title} that can be tuned, limit: {there}. "
                "Remedy: name it as the optimizer's param_groups do."
            )


def followers(hparams: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> list[tuple[str, ...]]:
    """For each group, the hyperparameters that it takes: all, but that params without weight decay stay without it."""
    groups = optimizer.param_groups
    decayed = any(float(group.get("weight_decay", 0.0)) for group in groups)
    exempt = [decayed and not float(group.get("weight_decay", 0.0)) for group in groups]
    return [tuple(name for name in hparams if not (left and name == "weight_decay")) for left in exempt]


def check_values(
    optimizer: torch.optim.Optimizer, followed: list[tuple[str, ...]], numbers: Mapping[str, Any], tolerance: float
) -> None:
    """Raise StepMismatch unless the groups hold these numbers; relative tolerance for the rounding of a space."""
    for at, group in enumerate(optimizer.param_groups):
        for name in followed[at]:
            wanted = numbers[name]
            rows = zip(tree.leaves(group[name]), tree.leaves(wanted), strict=True)
            for got, number in ((float(x), y) for x, y in rows):
                if not abs(got - number) <= tolerance * abs(number):
                    raise StepMismatch(
                        f"LiveOnePass: param_groups[{at}][{name!r}] is {got:.9g}, limit: {number:.9g}, the "
                        "hyperparameter's value. Remedy: start the space at the optimizer's own value, one for all "
                        "groups, and let no scheduler or other code write it."
                    )


def set_values(optimizer: torch.optim.Optimizer, followed: list[tuple[str, ...]], numbers: Mapping[str, Any]) -> None:
    """Write these numbers into the groups; a tensor that stands there keeps its identity."""
    for names, group in zip(followed, optimizer.param_groups, strict=True):
        for name in names:
            group[name] = _placed(group[name], numbers[name])


def _placed(there: Any, number: Any) -> Any:
    if isinstance(there, Tensor):
        with torch.no_grad():
            return there.fill_(number)
    if isinstance(there, (tuple, list)):
        return type(there)(_placed(x, y) for x, y in zip(there, number, strict=True))
    return number


def require_gradients(named: Mapping[str, Tensor]) -> None:
    """Raise unless every trainable param has a dense gradient."""
    for name, param in named.items():
        if param.grad is None:
            raise InvalidInput(
                f"LiveOnePass: {name!r} has no gradient before the optimizer's step, limit: one for each trainable "
                "param. Remedy: call before_step after backward; requires_grad_(False) for a param that is not used."
            )
        if param.grad.layout is not torch.strided:
            raise UnsupportedOptimizer(
                f"LiveOnePass: {name!r} has a gradient of layout {param.grad.layout}, limit: torch.strided. "
                "Remedy: Embedding(sparse=False)."
            )

"""What our torch.optim optimizers share: the step over groups, and what it descends."""

# pyright: reportPrivateImportUsage=false
# ruff: noqa: SLF001  (torch._foreach_*, by which torch.optim itself steps, have no public names)

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from nestgrad import InvalidInput


class DropIn(torch.optim.Optimizer):
    """Steps as torch.optim's do. limits: of settings, each a number from 0 to below its limit."""

    limits: dict[str, float] = {"lr": math.inf, "weight_decay": math.inf}  # noqa: RUF012  (never changed)

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        for name, limit in self.limits.items():
            value = defaults[name]
            if not isinstance(value, (int, float)) or not 0.0 <= value < limit:
                raise InvalidInput(
                    f"{type(self).__name__}.{name}: got {value!r}, limit: a number from 0 to below {limit:g}. "
                    "Remedy: for settings that are tensors, nestgrad_torch.optim's functional rules."
                )
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of every param that has a gradient; the closure's value, where there is one."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._move(group, weights, _slopes(type(self).__name__, group, weights))
        return value

    def _move(self, group: dict[str, Any], weights: list[Tensor], slopes: list[Tensor]) -> None:
        raise NotImplementedError


def _slopes(name: str, group: dict[str, Any], weights: list[Tensor]) -> list[Tensor]:
    """What the optimizer descends: gradients, turned round where it maximizes, with weight decay."""
    slopes = [p.grad for p in weights if p.grad is not None]
    sparse = sum(g.is_sparse for g in slopes)
    if sparse:
        raise InvalidInput(f"{name}: {sparse} gradients are sparse, limit 0. Remedy: nn.Embedding(..., sparse=False).")
    if group["maximize"]:
        slopes = list(torch._foreach_neg(slopes))
    if group["weight_decay"]:
        slopes = list(torch._foreach_add(slopes, weights, alpha=group["weight_decay"]))
    return slopes

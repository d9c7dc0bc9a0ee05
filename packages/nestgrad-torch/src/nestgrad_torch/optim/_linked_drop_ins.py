"""Aggregated and recurrently linked momentum and optimistic descent as torch.optim optimizers."""

# pyright: reportPrivateImportUsage=false
# ruff: noqa: SLF001  (torch._foreach_*, by which torch.optim itself steps, have no public names)

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from nestgrad import InvalidInput
from nestgrad_torch.optim._drop_in import DropIn


class AggregatedMomentum(DropIn):
    """μ_m ← momenta_m μ_m - g for each of M velocities, w ← w + lr / M Σ_m μ_m.

    As nestgrad_torch.optim.aggregated_momentum, in place; weight_decay and maximize as torch.optim.SGD has them.
    (Lucas et al. 2019.)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momenta: Sequence[float] = (0.0, 0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        odd = [value for value in momenta if not -1.0 < value < 1.0]
        if odd or not momenta:
            raise InvalidInput(
                f"AggregatedMomentum.momenta: got {tuple(momenta)}, limit: 1 or more, each between -1 and 1. "
                "Remedy: (0.0, 0.9, 0.99)."
            )
        settings = {"lr": lr, "momenta": tuple(momenta)}
        super().__init__(params, {**settings, "weight_decay": weight_decay, "maximize": maximize})

    def _move(self, group: dict[str, Any], weights: list[Tensor], slopes: list[Tensor]) -> None:
        momenta = group["momenta"]
        for which, velocities in enumerate(_velocities(self, weights, len(momenta))):
            torch._foreach_mul_(velocities, momenta[which])
            torch._foreach_sub_(velocities, slopes)
            torch._foreach_add_(weights, velocities, alpha=group["lr"] / len(momenta))


class RecurrentlyLinkedMomentum(DropIn):
    """V ← mixing V - inputs ⊗ g, w ← w + lr · outputsᵀ V, V being M velocities.

    As nestgrad_torch.optim.recurrently_linked_momentum, but for lr, by which a scheduler may scale the outputs.
    mixing: M rows of M numbers; inputs, outputs: M numbers. (Lorraine et al. 2022.)
    """

    def __init__(
        self,
        params: Iterable[Any],
        mixing: Sequence[Sequence[float]],
        inputs: Sequence[float],
        outputs: Sequence[float],
        lr: float = 1.0,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        rows, count = [tuple(row) for row in mixing], len(inputs)
        if not count or [len(row) for row in rows] != [count] * count or len(outputs) != count:
            raise InvalidInput(
                f"RecurrentlyLinkedMomentum: mixing with rows of {[len(row) for row in rows]}, {count} inputs and "
                f"{len(outputs)} outputs, limit: as many of each, 1 or more. Remedy: one row and column a velocity."
            )
        settings = {"lr": lr, "mixing": tuple(rows), "inputs": tuple(inputs), "outputs": tuple(outputs)}
        super().__init__(params, {**settings, "weight_decay": weight_decay, "maximize": maximize})

    def _move(self, group: dict[str, Any], weights: list[Tensor], slopes: list[Tensor]) -> None:
        old = _velocities(self, weights, len(group["inputs"]))
        new: list[list[Tensor]] = []
        for row, share in zip(group["mixing"], group["inputs"], strict=True):
            velocities = list(torch._foreach_mul(slopes, -share))
            for before, link in zip(old, row, strict=True):
                torch._foreach_add_(velocities, before, alpha=link)
            new.append(velocities)
        for velocities, before, share in zip(new, old, group["outputs"], strict=True):
            torch._foreach_add_(weights, velocities, alpha=group["lr"] * share)
            torch._foreach_copy_(before, velocities)


class Optimistic(DropIn):
    """w ← w - lr (2 g - g_before), g_before = g on a param's first step.

    As nestgrad_torch.optim.optimistic, in place; weight_decay and maximize as torch.optim.SGD has them.
    (Popov 1980; Daskalakis et al. 2018.)
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float = 0.0, *, maximize: bool = False) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "maximize": maximize})

    def _move(self, group: dict[str, Any], weights: list[Tensor], slopes: list[Tensor]) -> None:
        for weight, slope in zip(weights, slopes, strict=True):
            if "before" not in self.state[weight]:
                self.state[weight]["before"] = slope.clone()
        before = [self.state[weight]["before"] for weight in weights]
        torch._foreach_add_(weights, slopes, alpha=-2.0 * group["lr"])
        torch._foreach_add_(weights, before, alpha=group["lr"])
        torch._foreach_copy_(before, slopes)


def _velocities(optimizer: DropIn, weights: list[Tensor], count: int) -> list[list[Tensor]]:
    """Of each of the velocities the tensors of all weights; zeros at first."""
    for weight in weights:
        if "velocities" not in optimizer.state[weight]:
            optimizer.state[weight]["velocities"] = [torch.zeros_like(weight) for _ in range(count)]
    return [[optimizer.state[weight]["velocities"][which] for weight in weights] for which in range(count)]

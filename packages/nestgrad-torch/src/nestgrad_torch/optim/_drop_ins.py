"""Complex momentum and complex Adam as torch.optim optimizers, one operation on all params at a time."""

# pyright: reportPrivateImportUsage=false
# ruff: noqa: SLF001  (torch._foreach_*, by which torch.optim itself steps, have no public names)

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from nestgrad import InvalidInput


class _Complex(torch.optim.Optimizer):
    """What both share: settings, gradients with weight decay, the turning velocity.

    Beside the velocity a = Re μ a param's state holds e = -β_i Im μ, with which a step is
    e ← e + β_r a, a ← β_r e - |β|² a, and then e - g is the new velocity and a the new e: no copy is made.
    So modulus and argument are to stay as they are during a run; lr may change.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        limits = {"lr": math.inf, "modulus": 1.0, "b2": 1.0, "eps": math.inf, "weight_decay": math.inf}
        for name, limit in limits.items():
            value = defaults.get(name, 0.0)
            if not isinstance(value, (int, float)) or not 0.0 <= value < limit:
                raise InvalidInput(
                    f"{type(self).__name__}.{name}: got {value!r}, limit: a number from 0 to below {limit:g}. "
                    "Remedy: for settings that are tensors, nestgrad_torch.optim's functional rules."
                )
        if not math.isfinite(defaults["argument"]):
            raise InvalidInput(
                f"{type(self).__name__}.argument: got {defaults['argument']!r}, limit: finite. Remedy: math.pi / 8."
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
                self._move(group, weights, _slopes(group, weights))
        return value

    def _move(self, group: dict[str, Any], weights: list[Tensor], slopes: list[Tensor]) -> None:
        raise NotImplementedError

    def _velocities(self, group: dict[str, Any], weights: list[Tensor], slopes: list[Tensor]) -> list[Tensor]:
        """Re μ after this step, which the state then holds."""
        states = [self.state[p] for p in weights]
        for state, weight in zip(states, weights, strict=True):
            if "velocity" not in state:
                state["velocity"], state["turn"] = torch.zeros_like(weight), torch.zeros_like(weight)
        old, new = [state["velocity"] for state in states], [state["turn"] for state in states]
        real = group["modulus"] * math.cos(group["argument"])
        torch._foreach_add_(new, old, alpha=real)
        torch._foreach_mul_(old, -(group["modulus"] ** 2))
        torch._foreach_add_(old, new, alpha=real)
        torch._foreach_sub_(new, slopes)
        for state, velocity, turn in zip(states, new, old, strict=True):
            state["velocity"], state["turn"] = velocity, turn
        return new


class ComplexMomentum(_Complex):
    """μ ← β μ - g, w ← w + lr · Re μ, with β = modulus · exp(i argument), argument in radians.

    As nestgrad_torch.optim.complex_momentum, in place; weight_decay and maximize as torch.optim.SGD has them.
    argument π/8 is a first guess for adversarial games. (Lorraine et al. 2022.)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        modulus: float = 0.9,
        argument: float = math.pi / 8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        settings = {"lr": lr, "modulus": modulus, "argument": argument}
        super().__init__(params, {**settings, "weight_decay": weight_decay, "maximize": maximize})

    def _move(self, group: dict[str, Any], weights: list[Tensor], slopes: list[Tensor]) -> None:
        torch._foreach_add_(weights, self._velocities(group, weights, slopes), alpha=group["lr"])


class ComplexAdam(_Complex):
    """μ ← β μ - g, v ← b2 v + (1 - b2) g², w ← w + lr · Re μ / (√(v / (1 - b2ᵗ)) + eps).

    As nestgrad_torch.optim.complex_adam, in place: μ has neither Adam's factor 1 - β nor its bias correction.
    β = modulus · exp(i argument); weight_decay and maximize as torch.optim.SGD has them.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        modulus: float = 0.9,
        argument: float = math.pi / 8,
        b2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        settings = {"lr": lr, "modulus": modulus, "argument": argument, "b2": b2, "eps": eps}
        super().__init__(params, {**settings, "weight_decay": weight_decay, "maximize": maximize})

    def _move(self, group: dict[str, Any], weights: list[Tensor], slopes: list[Tensor]) -> None:
        velocities, states = self._velocities(group, weights, slopes), [self.state[p] for p in weights]
        for state, weight in zip(states, weights, strict=True):
            if "v" not in state:
                state["v"], state["step"] = torch.zeros_like(weight), 0
            state["step"] += 1
        squares = [state["v"] for state in states]
        torch._foreach_mul_(squares, group["b2"])
        torch._foreach_addcmul_(squares, slopes, slopes, 1.0 - group["b2"])
        scales = torch._foreach_div(squares, [1.0 - group["b2"] ** state["step"] for state in states])
        torch._foreach_sqrt_(scales)
        torch._foreach_add_(scales, group["eps"])
        torch._foreach_addcdiv_(weights, velocities, scales, group["lr"])


def _slopes(group: dict[str, Any], weights: list[Tensor]) -> list[Tensor]:
    """What the optimizer descends: gradients, turned round where it maximizes, with weight decay."""
    slopes = [p.grad for p in weights if p.grad is not None]
    sparse = sum(g.is_sparse for g in slopes)
    if sparse:
        raise InvalidInput(
            f"complex momentum: {sparse} gradients are sparse, limit 0. Remedy: nn.Embedding(..., sparse=False)."
        )
    if group["maximize"]:
        slopes = list(torch._foreach_neg(slopes))
    if group["weight_decay"]:
        slopes = list(torch._foreach_add(slopes, weights, alpha=group["weight_decay"]))
    return slopes

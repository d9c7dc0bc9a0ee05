"""Complex momentum and complex Adam as torch.optim optimizers, one operation on all params at a time."""

# pyright: reportPrivateImportUsage=false
# ruff: noqa: SLF001  (torch._foreach_*, by which torch.optim itself steps, have no public names)

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from nestgrad import InvalidInput
from nestgrad_torch.optim._drop_in import DropIn


class _Complex(DropIn):
    """What both share: the turning velocity.

    Beside the velocity a = Re μ a param's state holds e = -β_i Im μ, with which a step is
    e ← e + β_r a, a ← β_r e - |β|² a, and then e - g is the new velocity and a the new e: no copy is made.
    So modulus and argument are to stay as they are during a run; lr may change.
    """

    limits = {**DropIn.limits, "modulus": 1.0}  # noqa: RUF012  (never changed)

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        if not math.isfinite(defaults["argument"]):
            raise InvalidInput(
                f"{type(self).__name__}.argument: got {defaults['argument']!r}, limit: finite. Remedy: math.pi / 8."
            )

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

    limits = {**_Complex.limits, "b2": 1.0, "eps": math.inf}  # noqa: RUF012  (never changed)

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

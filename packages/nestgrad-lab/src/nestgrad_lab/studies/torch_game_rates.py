"""Torch's side of the study of rates: bilinear games and the Dirac GAN, played."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import nestgrad_torch as ng
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.engines.torch_engine import device_named
from nestgrad_lab.studies.study import Context


def bilinear(singular_values: Sequence[float], context: Context) -> ng.Game:
    """min over x, max over y of Σ σ x y."""
    sizes = torch.tensor(singular_values, dtype=torch.float64, device=device_named(context.device))
    return ng.Game({"x": lambda p, batch: p["x"] @ (sizes * p["y"]), "y": lambda p, batch: -p["x"] @ (sizes * p["y"])})


def dirac() -> ng.Game:
    """The generator at θ, the discriminator's slope ψ: min over θ, max over ψ of f(ψ θ), f(t) = -ln(1 + e^-t)."""
    return ng.Game({"x": lambda p, batch: -_softplus(p), "y": lambda p, batch: _softplus(p)})


def _softplus(p: Any) -> Tensor:
    return functional.softplus(-(p["x"] @ p["y"]))


def measured_spectrum(game: ng.Game, size: int, context: Context) -> Array:
    """Eigenvalues of the game Jacobian at 0."""
    zero = torch.zeros(2, size, dtype=torch.float64, device=device_named(context.device))
    return np.linalg.eigvals(ng.game_jacobian(game, {"x": zero[0], "y": zero[1]}).cpu().numpy())


def momentum(step_size: float, modulus: float, argument: float) -> Any:
    """The rule of complex momentum."""
    return ng.optim.complex_momentum(step_size, modulus, argument)


def optimistic(step_size: float) -> Any:
    """The rule of optimistic gradients."""
    return ng.optim.optimistic(step_size)


def extragradient(step_size: float) -> tuple[Any, ng.Extragradient]:
    """The rule and the direction of extragradient."""
    return ng.optim.sgd(step_size), ng.Extragradient(step_size=step_size)


def trajectory(
    game: ng.Game,
    rule: Any,
    start: Array,
    steps: int,
    context: Context,
    *,
    turns: str = "simultaneous",
    direction: ng.Direction | None = None,
    tick: Callable[[float], None] = lambda share: None,
) -> Array:
    """Both players at every step, (steps + 1, 2, size); start: (2, size)."""
    play = ng.Play(game, optimizer=rule, turns=turns, direction=direction or ng.Simultaneous())
    both = torch.as_tensor(start, dtype=torch.float64, device=device_named(context.device))
    state = play.init({"x": both[0], "y": both[1]})
    seen = [both]
    for step in range(steps):
        state, _ = play.step(state)
        seen.append(torch.stack([state["players"]["x"], state["players"]["y"]]))
        if step % 200 == 0:
            tick(step / steps)
    return torch.stack(seen).cpu().numpy()

"""A step of a small GAN in torch, each player by an optimizer of torch.optim's shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import nestgrad_torch as ng


def optimizers() -> dict[str, Callable[[Any], torch.optim.Optimizer]]:
    """What is compared: momentum with a real coefficient, as torch has it, and ours."""
    return {
        "real": lambda params: torch.optim.SGD(params, lr=1e-3, momentum=0.8),
        "complex": lambda params: ng.optim.ComplexMomentum(params, lr=1e-3, modulus=0.8, argument=0.39),
    }


def steps(width: int, batch: int, times: int) -> dict[str, Callable[[], Any]]:
    """name -> so many alternating steps with it, each on networks of its own."""
    return {name: _game(made, width, batch, times) for name, made in optimizers().items()}


def _game(made: Callable[[Any], torch.optim.Optimizer], width: int, batch: int, times: int) -> Callable[[], Any]:
    random = torch.Generator().manual_seed(0)
    generator, discriminator = _network(2, width, 2), _network(2, width, 1)
    moves = made(generator.parameters()), made(discriminator.parameters())
    real, noise = (torch.randn(batch, 2, generator=random) for _ in range(2))
    apart = nn.functional.softplus

    def step() -> None:
        for _ in range(times):
            moves[0].zero_grad()
            apart(-discriminator(generator(noise))).mean().backward()
            moves[0].step()
            moves[1].zero_grad()
            told = apart(-discriminator(real)).mean() + apart(discriminator(generator(noise).detach())).mean()
            told.backward()
            moves[1].step()

    return step


def _network(inputs: int, width: int, outputs: int) -> nn.Module:
    torch.manual_seed(0)
    hidden = nn.Linear(width, width)
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), hidden, nn.ReLU(), nn.Linear(width, outputs))

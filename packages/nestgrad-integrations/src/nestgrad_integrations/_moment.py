"""Where a training step starts: random numbers and buffers before the forward pass, weights and state before the step.

A module's forward pass tells when it begins, by a hook; for what is kept see Moment.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Copies = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Before:
    """The random number generators' states and the module's buffers before a forward pass."""

    cpu: Tensor
    cuda: Mapping[int, Tensor]
    buffers: Copies

    @staticmethod
    def of(module: nn.Module) -> Before:
        """As they stand, copied."""
        cuda = {index: torch.cuda.get_rng_state(index) for index in _devices(module)}
        buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
        return Before(torch.get_rng_state(), cuda, buffers)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Draw from here on; afterwards the generators are where they were."""
        with torch.random.fork_rng(devices=list(self.cuda)):
            torch.set_rng_state(self.cpu)
            for index, state in self.cuda.items():
                torch.cuda.set_rng_state(state, index)
            yield


@dataclass(frozen=True, slots=True)
class Moment:
    """What enters an optimizer's step: weights, gradients, settings, the rule's state, and the pass that led here."""

    batch: Any
    before: Before
    weights: Copies
    grads: Copies
    groups: list[Mapping[str, Any]]
    opt_state: Any


class Watching:
    """A forward pre-hook that calls its owner, which it does not keep alive; a copy of it watches for nobody."""

    def __init__(self, owner: Any = None, method: str = "") -> None:
        self._owner = None if owner is None else weakref.ref(owner)
        self._method = method

    def __reduce__(self) -> tuple[Callable[..., Watching], tuple[()]]:
        return Watching, ()

    def __call__(self, module: nn.Module, *args: Any) -> None:
        owner = None if self._owner is None else self._owner()
        if owner is not None and module.training and torch.is_grad_enabled():
            getattr(owner, self._method)(*args)


@contextlib.contextmanager
def in_eval_mode(module: nn.Module) -> Iterator[None]:
    """All layers in eval mode, each put back afterwards; no method of theirs is called."""
    modes = [(layer, layer.training) for layer in module.modules()]
    try:
        for layer, _ in modes:
            layer.training = False
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def _devices(module: nn.Module) -> list[int]:
    return sorted({p.device.index for p in module.parameters() if p.device.type == "cuda"})

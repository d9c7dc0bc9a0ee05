"""The outer optimizer's step: torch.optim's own, or for the plain forms of Adam and SGD the same numbers as a formula.

A formula has no host reads, so it can be part of a program, and it takes a tenth of the time of an optimizer object.
`AdamStep.read` is for steps outside of programs.
"""

# ruff: noqa: SLF001  (torch._foreach_*, by which torch.optim itself steps, have no public names)
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Kept = dict[str, Any]
"""One leaf's entry in the state of a torch.optim optimizer."""


@dataclass(frozen=True, slots=True)
class AdamStep:
    """torch.optim.Adam without its options."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def start(self, leaf: Tensor) -> Kept:
        """What the optimizer makes at its first step."""
        double = torch.get_default_dtype() is torch.float64
        zero = torch.zeros((), dtype=torch.float64 if double else torch.float32)
        return {"step": zero, "exp_avg": torch.zeros_like(leaf), "exp_avg_sq": torch.zeros_like(leaf)}

    def __call__(self, leaf: Tensor, grad: Tensor, kept: Kept) -> tuple[Tensor, Kept]:
        """(the leaf after the step, the entry after it)."""
        (b1, b2), count = self.betas, kept["step"] + 1
        exact = count.double()
        mean = torch.lerp(kept["exp_avg"], grad, 1.0 - b1)
        square = torch.addcmul(kept["exp_avg_sq"] * b2, grad, grad, value=1.0 - b2)
        rate = (self.lr / (1.0 - b1**exact)).to(leaf.dtype).to(leaf.device)
        root = (1.0 - b2**exact).sqrt().to(leaf.dtype).to(leaf.device)
        moved = leaf - rate * (mean / (square.sqrt() / root + self.eps))
        return moved, {"step": count, "exp_avg": mean, "exp_avg_sq": square}

    def read(self, leaves: list[Tensor], grads: list[Tensor], kept: list[Kept]) -> tuple[list[Tensor], list[Kept]]:
        """The same for all leaves, with torch.optim's own operations on the CPU, bit for bit; the counts are read."""
        b1, b2 = self.betas
        counts = [entry["step"] + 1 for entry in kept]
        steps = [count.item() for count in counts]
        means = torch._foreach_lerp([entry["exp_avg"] for entry in kept], grads, 1 - b1)
        squares = torch._foreach_mul([entry["exp_avg_sq"] for entry in kept], b2)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - b2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, [(1 - b2**step) ** 0.5 for step in steps])
        torch._foreach_add_(roots, self.eps)
        moved = torch._foreach_addcdiv(leaves, means, roots, [-self.lr / (1 - b1**step) for step in steps])
        rows = zip(counts, means, squares, strict=True)
        return list(moved), [{"step": n, "exp_avg": mean, "exp_avg_sq": square} for n, mean, square in rows]


@dataclass(frozen=True, slots=True)
class SGDStep:
    """torch.optim.SGD without momentum."""

    lr: float = 1e-3

    def start(self, leaf: Tensor) -> Kept:
        """Nothing is kept."""
        return {}

    def __call__(self, leaf: Tensor, grad: Tensor, kept: Kept) -> tuple[Tensor, Kept]:
        """(the leaf after the step, what was kept)."""
        return torch.add(leaf, grad, alpha=-self.lr), kept


_FORMULAS: dict[Any, tuple[type[AdamStep | SGDStep], frozenset[str]]] = {
    torch.optim.Adam: (AdamStep, frozenset({"lr", "betas", "eps"})),
    torch.optim.SGD: (SGDStep, frozenset({"lr"})),
}


def formula(outer_optimizer: Callable[..., Any]) -> AdamStep | SGDStep | None:
    """The step of functools.partial(torch.optim.Adam or SGD, plain settings) as a formula; None for any other."""
    settings: dict[str, Any] = {}
    while isinstance(outer_optimizer, functools.partial) and not outer_optimizer.args:
        settings = {**outer_optimizer.keywords, **settings}
        outer_optimizer = outer_optimizer.func
    kind, known = _FORMULAS.get(outer_optimizer, (None, frozenset()))
    if kind is None or not settings.keys() <= known:
        return None
    numbers = [x for value in settings.values() for x in (value if isinstance(value, tuple) else (value,))]
    return kind(**settings) if all(isinstance(x, (int, float)) for x in numbers) else None


def started(step: AdamStep | SGDStep, leaves: list[Tensor], kept: list[Kept]) -> list[Kept]:
    """The entries, each with what its first step would make."""
    return [entry or step.start(leaf) for leaf, entry in zip(leaves, kept, strict=True)]


@torch.no_grad()
def moved_by(
    outer_optimizer: Callable[..., Any], leaves: list[Tensor], kept: list[Kept], grads: list[Tensor]
) -> tuple[list[Tensor], list[Kept]]:
    """(the leaves after one step of the optimizer, its entries), both copied before."""
    step = formula(outer_optimizer)
    if isinstance(step, AdamStep) and all(leaf.device.type == "cpu" for leaf in leaves):
        return step.read(leaves, grads, started(step, leaves, kept))
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    optimizer = outer_optimizer(leaves)
    for leaf, grad, entry in zip(leaves, grads, kept, strict=True):
        leaf.grad = grad
        if entry:
            optimizer.state[leaf] = {k: v.clone() if isinstance(v, Tensor) else v for k, v in entry.items()}
    optimizer.step()
    return [leaf.detach() for leaf in leaves], [dict(optimizer.state[leaf]) for leaf in leaves]

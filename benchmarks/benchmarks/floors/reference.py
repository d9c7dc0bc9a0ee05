"""The operations' answers in float64 by the most naive route: what the floors and our library are checked against.

Nothing is kept between products: each takes the gradient again. One-pass differentiates the update itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.operations import EVERY, PRODUCTS, STEPS, TERMS
from benchmarks.problems import START, problem
from benchmarks.sides.in_torch import Side, side

grad = torch.autograd.grad


@functools.cache
def reference(name: str, letter: str) -> list[Tensor]:
    """The hypergradient of one operation on one problem, a float64 tensor a hyperparameter."""
    return _ANSWERS[letter](side(problem(name), torch.float64))


def relative_error(found: list[Any], expected: list[Tensor]) -> float:
    """|found - expected| / |expected| over all hyperparameters; found may be of any framework, or float32."""
    pairs = [(torch.as_tensor(f).double().reshape(e.shape), e) for f, e in zip(found, expected, strict=True)]
    return float(sum(((f - e) ** 2).sum() for f, e in pairs) ** 0.5 / sum((e**2).sum() for _, e in pairs) ** 0.5)


class _Point:
    """Products at the problem's weights, by recomputing."""

    def __init__(self, here: Side) -> None:
        self.here, self.names = here, list(here.params)

    def slope(self) -> tuple[Any, Any, list[Tensor]]:
        w = {name: p.clone().requires_grad_() for name, p in self.here.params.items()}
        h = {name: p.clone().requires_grad_() for name, p in self.here.decays.items()}
        loss = self.here.penalised(w, h, self.here.inner)
        return w, h, list(grad(loss, list(w.values()), create_graph=True))

    def product(self, vector: list[Tensor]) -> list[Tensor]:
        w, _, slope = self.slope()
        return list(grad(slope, list(w.values()), vector))

    def outer_slope(self) -> list[Tensor]:
        w = {name: p.clone().requires_grad_() for name, p in self.here.params.items()}
        return list(grad(self.here.error(w, self.here.outer), list(w.values())))

    def indirect(self, adjoint: list[Tensor]) -> list[Tensor]:
        _, h, slope = self.slope()
        return [-part for part in grad(slope, list(h.values()), adjoint)]


def _neumann(here: Side) -> list[Tensor]:
    point, rate = _Point(here), here.problem.rate
    term = total = point.outer_slope()
    for _ in range(PRODUCTS):
        term = [t - rate * p for t, p in zip(term, point.product(term), strict=True)]
        total = [a + b for a, b in zip(total, term, strict=True)]
    return point.indirect([rate * t for t in total])


def _cg(here: Side) -> list[Tensor]:
    point = _Point(here)
    r = d = point.outer_slope()
    x = [torch.zeros_like(v) for v in r]
    for _ in range(STEPS):
        image = point.product(d)
        length = _dot(r, r) / _dot(d, image)
        x = [a + length * b for a, b in zip(x, d, strict=True)]
        left = [a - length * b for a, b in zip(r, image, strict=True)]
        turn = _dot(left, left) / _dot(r, r)
        r, d = left, [a + turn * b for a, b in zip(left, d, strict=True)]
    return point.indirect(x)


def _unroll(here: Side) -> list[Tensor]:
    h = {name: p.clone().requires_grad_() for name, p in here.decays.items()}
    w = {name: p.clone().requires_grad_() for name, p in here.params.items()}
    for _ in range(STEPS):
        slope = grad(here.penalised(w, h, here.inner), list(w.values()), create_graph=True)
        w = {name: a - here.problem.rate * b for (name, a), b in zip(w.items(), slope, strict=True)}
    return list(grad(here.error(w, here.outer), list(h.values())))


def _one_pass(here: Side) -> list[Tensor]:
    names, kind = list(here.params), next(iter(here.params.values()))
    start = [START["lr"], START["decay"]]
    tuned = torch.tensor(start, dtype=kind.dtype).log10().tolist()
    leaves = torch.tensor([*tuned, torch.tensor(START["momentum"], dtype=kind.dtype).logit().item()]).to(kind)
    leaves.requires_grad_()

    def update(w: list[Tensor], v: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        rate, decay, momentum = 10.0 ** leaves[0], 10.0 ** leaves[1], leaves[2].sigmoid()
        slope = grad(here.error(dict(zip(names, w, strict=True)), here.inner), w, create_graph=True)
        v = [momentum * b + g + decay * a for a, b, g in zip(w, v, slope, strict=True)]
        return [rate * b for b in v], v

    def leaf(values: list[Tensor]) -> list[Tensor]:
        return [value.detach().clone().requires_grad_() for value in values]

    w = leaf(list(here.params.values()))
    v = [torch.zeros_like(p) for p in w]
    for _ in range(EVERY - 1):
        moves, v = update(w, [b.detach() for b in v])
        w = leaf([a - u for a, u in zip(w, moves, strict=True)])
    entering = [b.detach() for b in v]
    moves, _ = update(w, entering)
    ends = leaf([a - u for a, u in zip(w, moves, strict=True)])
    term = total = list(grad(here.error(dict(zip(names, ends, strict=True)), here.outer), ends))
    for _ in range(TERMS - 1):
        product = grad(update(w, entering)[0], w, term)
        term = [t - p for t, p in zip(term, product, strict=True)]
        total = [a + b for a, b in zip(total, term, strict=True)]
    (found,) = grad(update(w, entering)[0], leaves, total)
    return [-found]


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


_ANSWERS: dict[str, Callable[[Side], list[Tensor]]] = {"a": _neumann, "b": _cg, "c": _unroll, "d": _one_pass}

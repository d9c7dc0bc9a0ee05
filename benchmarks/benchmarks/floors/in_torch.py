"""The best hand-written code for each operation in torch, as plain as it can be: what our library is held against.

Every floor is a function of tensors alone, so that it can be run in three forms: as it is ("eager": one gradient graph,
kept, and each term pulled back through it), replayed from a trace ("traced"), or the trace compiled ("compiled").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from benchmarks.operations import EVERY, PRODUCTS, STEPS, TERMS
from benchmarks.problems import START
from benchmarks.sides.in_torch import LN10, Side

FORMS = ("eager", "traced", "compiled")
Tensors = list[Tensor]
grad = torch.autograd.grad


def floor(side: Side, letter: str, form: str = "eager") -> Callable[[], Tensors]:
    """A call that computes the operation's hypergradient, a tensor a hyperparameter ("d": one of three, and more)."""
    function, args = _WORK[letter](side)
    if form == "eager":
        return lambda: function(*args)
    with torch.no_grad():
        program: Any = make_fx(function)(*args)
    program.graph.eliminate_dead_code()
    program.recompile()
    if form == "compiled":
        program = torch.compile(program, dynamic=False)

    def call() -> Tensors:
        with torch.no_grad():
            return program(*args)

    return call


def _leaves(values: Tensors) -> Tensors:
    return [value.detach().requires_grad_() for value in values]


def _losses(side: Side) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """(penalised, error) of lists of tensors."""
    names, groups = list(side.params), list(side.decays)

    def penalised(w: Tensors, h: Tensors, batch: Any) -> Tensor:
        return side.penalised(dict(zip(names, w, strict=True)), dict(zip(groups, h, strict=True)), batch)

    def error(w: Tensors, batch: Any) -> Tensor:
        return side.error(dict(zip(names, w, strict=True)), batch)

    return penalised, error


def _arguments(side: Side) -> tuple[Any, ...]:
    return list(side.params.values()), list(side.decays.values()), side.inner, side.outer


def _neumann(side: Side) -> tuple[Callable[..., Tensors], tuple[Any, ...]]:
    (penalised, error), rate = _losses(side), side.problem.rate

    def work(weights: Tensors, decays: Tensors, inner: Any, outer: Any) -> Tensors:
        with torch.enable_grad():
            w, h = _leaves(weights), _leaves(decays)
            slope = grad(penalised(w, h, inner), w, create_graph=True)
            term = grad(error(w, outer), w)
        total = list(term)
        for _ in range(PRODUCTS):
            product = grad(slope, w, term, retain_graph=True)
            term = [torch.sub(t, p, alpha=rate) for t, p in zip(term, product, strict=True)]
            total = [a + b for a, b in zip(total, term, strict=True)]
        return list(grad(slope, h, [-rate * t for t in total]))

    return work, _arguments(side)


def _cg(side: Side) -> tuple[Callable[..., Tensors], tuple[Any, ...]]:
    penalised, error = _losses(side)
    shapes, sizes = [p.shape for p in side.params.values()], [p.numel() for p in side.params.values()]

    def split(vector: Tensor) -> Tensors:
        return [part.view(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]

    def flat(values: Any) -> Tensor:
        return torch.cat([value.reshape(-1) for value in values])

    def work(weights: Tensors, decays: Tensors, inner: Any, outer: Any) -> Tensors:
        with torch.enable_grad():
            w, h = _leaves(weights), _leaves(decays)
            slope = grad(penalised(w, h, inner), w, create_graph=True)
            residual = flat(grad(error(w, outer), w))
        direction, solution = residual, torch.zeros_like(residual)
        squared = residual.dot(residual)
        for _ in range(STEPS):
            image = flat(grad(slope, w, split(direction), retain_graph=True))
            length = squared / direction.dot(image)
            solution = solution + length * direction
            residual = residual - length * image
            following = residual.dot(residual)
            direction = residual + (following / squared) * direction
            squared = following
        return list(grad(slope, h, split(-solution)))

    return work, _arguments(side)


def _unroll(side: Side) -> tuple[Callable[..., Tensors], tuple[Any, ...]]:
    (penalised, error), rate = _losses(side), side.problem.rate

    def work(weights: Tensors, decays: Tensors, inner: Any, outer: Any) -> Tensors:
        with torch.enable_grad():
            w, h = _leaves(weights), _leaves(decays)
            for _ in range(STEPS):
                slope = grad(penalised(w, h, inner), w, create_graph=True)
                w = [torch.sub(a, b, alpha=rate) for a, b in zip(w, slope, strict=True)]
            return list(grad(error(w, outer), h))

    return work, _arguments(side)


def _one_pass(side: Side) -> tuple[Callable[..., Tensors], tuple[Any, ...]]:
    """[hypergradient in (log10 lr, log10 decay, logit momentum), those moved by Adam, moments, weights, trace]."""
    _, error = _losses(side)

    def work(weights: Tensors, trace: Tensors, tuned: Tensor, moments: Tensor, inner: Any, outer: Any) -> Tensors:
        rate, decay = 10.0 ** tuned[0], 10.0 ** tuned[1]
        momentum = tuned[2].sigmoid()

        def step(w: Tensors, v: Tensors, g: Any) -> tuple[Tensors, Tensors]:
            v = [torch.addcmul(b + momentum * a, c, decay) for a, b, c in zip(v, g, w, strict=True)]
            return [torch.addcmul(a, b, rate, value=-1) for a, b in zip(w, v, strict=True)], v

        w, v = weights, trace
        for _ in range(EVERY - 1):
            with torch.enable_grad():
                w = _leaves(w)
                slope = grad(error(w, inner), w)
            with torch.no_grad():
                w, v = step(w, v, slope)
        with torch.enable_grad():
            w = _leaves(w)
            slope = grad(error(w, inner), w, create_graph=True)
        with torch.no_grad():
            after, arrived = step(w, v, slope)
        with torch.enable_grad():
            ends = _leaves(after)
            term = grad(error(ends, outer), ends)
        total = list(term)
        for _ in range(TERMS - 1):
            product = grad(slope, w, term, retain_graph=True)
            term = [t - rate * torch.addcmul(p, t, decay) for t, p in zip(term, product, strict=True)]
            total = [a + b for a, b in zip(total, term, strict=True)]
        with torch.no_grad():
            by_rate, by_decay, by_momentum = (_dot(a, total) for a in (arrived, w, v))
            slopes = torch.stack(
                [LN10 * by_rate, LN10 * decay * by_decay, momentum * (1.0 - momentum) * by_momentum]
            ) * (-rate)
            first, second = 0.1 * slopes + 0.9 * moments[0], 0.001 * slopes**2 + 0.999 * moments[1]
            moved = tuned - 0.05 * (first / 0.1) / ((second / 0.001).sqrt() + 1e-8)
        return [slopes, moved, first, second, *after, *arrived]

    weights = list(side.params.values())
    logit = torch.tensor(START["momentum"]).logit()
    tuned = torch.stack([torch.tensor(START["lr"]).log10(), torch.tensor(START["decay"]).log10(), logit])
    tuned = tuned.to(weights[0].dtype)
    trace, moments = [torch.zeros_like(w) for w in weights], tuned.new_zeros(2, 3)
    return work, (weights, trace, tuned, moments, side.inner, side.outer)


def _dot(a: Any, b: Any) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


_WORK: dict[str, Callable[[Side], tuple[Callable[..., Tensors], tuple[Any, ...]]]] = {
    "a": _neumann,
    "b": _cg,
    "c": _unroll,
    "d": _one_pass,
}

"""The problems in torch: losses, a plain training step, and our library's form of each operation."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import nestgrad_torch as ng
from benchmarks.operations import EVERY, PRODUCTS, STEPS, TERMS
from benchmarks.problems import START, Problem

torch.set_num_threads(1)


@dataclass(frozen=True)
class Side:
    """One problem's tensors and losses. error(params, batch) has no penalty; penalised(params, decays, batch) has."""

    problem: Problem
    params: dict[str, Tensor]
    decays: dict[str, Tensor]
    inner: tuple[Tensor, Tensor]
    outer: tuple[Tensor, Tensor]
    error: Callable[[Any, Any], Tensor]

    def penalised(self, p: Any, h: Any, batch: Any) -> Tensor:
        """error + ½ Σ exp(decay) w², one decay a weight or one for all."""
        if "all" in h:
            return self.error(p, batch) + 0.5 * h["all"].exp() * sum((w**2).sum() for w in p.values())
        return self.error(p, batch) + 0.5 * sum((h[name].exp() * p[name] ** 2).sum() for name in p)

    def outer_loss(self, p: Any, h: Any, batch: Any) -> Tensor:
        """The error, in the form of an outer loss."""
        return self.error(p, batch)

    def unit(self) -> Callable[[], None]:
        """One plain training step: gradient of the penalised loss and SGD update in place."""
        leaves = {name: p.clone().requires_grad_() for name, p in self.params.items()}

        def step() -> None:
            grads = torch.autograd.grad(self.penalised(leaves, self.decays, self.inner), list(leaves.values()))
            with torch.no_grad():
                for w, g in zip(leaves.values(), grads, strict=True):
                    w.sub_(g, alpha=self.problem.rate)

        return step

    def ours(self, letter: str, *, compiled: bool = False) -> Callable[[], Any]:
        """Our library's call: a hypergradient in the decays, or for "d" one block of ten steps."""
        if letter == "d":
            tuner, state = self.one_pass(compiled=compiled)
            if not hasattr(tuner, "run"):
                raise NotImplementedError("nestgrad_torch.OnePass has no run")
            batches = [self.inner] * EVERY
            return lambda: tuner.run(state, batches, self.outer)
        problem, method = self.bilevel(letter)
        return functools.partial(
            ng.hypergradient,
            problem,
            self.params,
            self.decays,
            method=method,
            inner_batch=self.inner,
            outer_batch=self.outer,
            **_compile(ng.hypergradient, compiled=compiled),
        )

    def bilevel(self, letter: str) -> tuple[Any, Any]:
        """(problem, method) of an operation."""
        rate = self.problem.rate
        if letter == "c":
            inner, method = ng.WeightUpdate(self.penalised, lambda h: ng.optim.sgd(rate)), ng.Unrolled(num_steps=STEPS)
        else:
            neumann = ng.Neumann(num_terms=PRODUCTS + 1, step_size=rate)
            solver = neumann if letter == "a" else ng.CG(rtol=0.0, max_steps=STEPS)
            inner, method = ng.Minimize(self.penalised), ng.Implicit(solver=solver)
        return ng.BilevelProblem(inner, self.outer_loss), method

    def one_pass(self, *, compiled: bool = False, **changed: Any) -> tuple[Any, Any]:
        """(tuner, its first state): every ten steps, five terms; learning rate, momentum and weight decay."""
        inner = changed.pop("inner", None) or ng.WeightUpdate(
            self.outer_loss, lambda h: ng.optim.sgd(h["lr"], momentum=h["momentum"], weight_decay=h["decay"])
        )
        tuner = ng.OnePass(
            ng.BilevelProblem(inner, self.outer_loss),
            hparams={
                "lr": ng.Log10(START["lr"]),
                "decay": ng.Log10(START["decay"]),
                "momentum": ng.Logit(START["momentum"]),
            },
            every=EVERY,
            method=ng.Implicit(solver=ng.Neumann(num_terms=TERMS, step_size=1.0)),
            outer_optimizer=functools.partial(torch.optim.Adam, lr=0.05),
            **_compile(ng.OnePass, compiled=compiled),
        )
        return tuner, tuner.init(self.params)


def _compile(function: Any, *, compiled: bool) -> dict[str, bool]:
    if not compiled:
        return {}
    if "compile" not in inspect.signature(function).parameters:
        raise NotImplementedError(f"{function.__name__} has no argument named compile")
    return {"compile": True}


def answer(letter: str, found: Any) -> list[Tensor]:
    """The hypergradient in what `ours` returned, as the floors return it."""
    if letter == "d":
        total = found[1].hypergradients[-1].total
        return [torch.stack([total["lr"], total["decay"], total["momentum"]])]
    return list(found.total.values())


def wait(found: Any) -> None:
    """Nothing to wait for: on the CPU the numbers are there."""


def side(problem: Problem, dtype: torch.dtype = torch.float32) -> Side:
    """The problem in torch; convolutions and images in the layout that is fastest here."""

    def tensor(value: Any) -> Tensor:
        made = torch.tensor(value)
        if made.dim() == 4:
            order = (3, 2, 0, 1) if made.shape[0] in {1, 3} else (0, 3, 1, 2)
            made = made.permute(order).contiguous(memory_format=torch.channels_last)
        return made.to(dtype) if made.is_floating_point() else made

    return Side(
        problem=problem,
        params={name: tensor(value) for name, value in problem.params.items()},
        decays={name: tensor(value) for name, value in problem.decays.items()},
        inner=(tensor(problem.inner[0]), tensor(problem.inner[1])),
        outer=(tensor(problem.outer[0]), tensor(problem.outer[1])),
        error=_ERRORS[problem.network],
    )


def _regression(p: Any, batch: Any) -> Tensor:
    hidden = torch.addmm(p["b1"], batch[0], p["w1"]).relu()
    return functional.mse_loss(torch.addmm(p["b2"], hidden, p["w2"]), batch[1])


def _dense(p: Any, batch: Any) -> Tensor:
    hidden = torch.addmm(p["b1"], batch[0], p["w1"]).relu()
    hidden = torch.addmm(p["b2"], hidden, p["w2"]).relu()
    return functional.cross_entropy(torch.addmm(p["b3"], hidden, p["w3"]), batch[1])


def _residual(p: Any, batch: Any) -> Tensor:
    x = functional.conv2d(batch[0], p["stem"], stride=2, padding=1).relu()
    for block, stride in ((1, 1), (2, 2), (3, 2)):
        hidden = functional.conv2d(x, p[f"first{block}"], stride=stride, padding=1).relu()
        hidden = functional.conv2d(hidden, p[f"second{block}"], padding=1)
        skip = f"skip{block}"
        x = (hidden + (functional.conv2d(x, p[skip], stride=stride) if skip in p else x)).relu()
    return functional.cross_entropy(torch.addmm(p["b"], x.mean((2, 3)), p["w"]), batch[1])


def _logistic(p: Any, batch: Any) -> Tensor:
    return functional.binary_cross_entropy_with_logits(batch[0] @ p["w"], batch[1])


_ERRORS = {"regression": _regression, "dense": _dense, "residual": _residual, "logistic": _logistic}
LN10 = math.log(10.0)

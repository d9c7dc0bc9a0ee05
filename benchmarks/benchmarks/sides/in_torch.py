"""The problems in torch: losses, a plain training step, and our library's form of each operation."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import nestgrad_torch as ng
from benchmarks.methods import KEY, LETTERS, Method, methods, require
from benchmarks.operations import EVERY, TERMS
from benchmarks.problems import START, Problem

torch.set_num_threads(1)


@dataclass(frozen=True, eq=False)
class Side:
    """One problem's tensors and losses. error(params, batch) has no penalty; penalised(params, decays, batch) has."""

    problem: Problem
    params: dict[str, Tensor]
    decays: dict[str, Tensor]
    inner: tuple[Tensor, Tensor]
    outer: tuple[Tensor, Tensor]
    error: Callable[[Any, Any], Tensor]
    calls: dict[str, int] = field(default_factory=lambda: {"inner": 0, "outer": 0})

    def penalised(self, p: Any, h: Any, batch: Any) -> Tensor:
        """error + ½ Σ exp(decay) w², one decay a weight or one for all."""
        if "all" in h:
            return self.error(p, batch) + 0.5 * h["all"].exp() * sum((w**2).sum() for w in p.values())
        return self.error(p, batch) + 0.5 * sum((h[name].exp() * p[name] ** 2).sum() for name in p)

    def penalised_loss(self, p: Any, h: Any, batch: Any) -> Tensor:
        """The penalised loss as our library is given it, its calls counted."""
        self.calls["inner"] += 1
        return self.penalised(p, h, batch)

    def inner_loss(self, p: Any, h: Any, batch: Any) -> Tensor:
        """The error as an inner loss, its calls counted."""
        self.calls["inner"] += 1
        return self.error(p, batch)

    def outer_loss(self, p: Any, h: Any, batch: Any) -> Tensor:
        """The error as an outer loss, its calls counted."""
        self.calls["outer"] += 1
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

    def plain_training(self, steps: int) -> Callable[[], None]:
        """Steps of torch.optim.SGD on the error, at the settings that tuning starts from."""
        leaves = {name: p.clone().requires_grad_() for name, p in self.params.items()}
        settings: dict[str, Any] = {"lr": START["lr"], "momentum": START["momentum"], "weight_decay": START["decay"]}
        optimizer = torch.optim.SGD(leaves.values(), **settings)

        def train() -> None:
            for _ in range(steps):
                optimizer.zero_grad()
                self.error(leaves, self.inner).backward()
                optimizer.step()

        return train

    def ours(self, letter: str, *, compiled: bool = False) -> Callable[[], Any]:
        """Our library's call: a hypergradient in the decays, or for "d" one block of ten steps."""
        if letter == "d":
            tuner, state = self.one_pass(compiled=compiled)
            if not hasattr(tuner, "run"):
                raise NotImplementedError("nestgrad_torch.OnePass has no run")
            batches = [self.inner] * EVERY
            return lambda: tuner.run(state, batches, self.outer)
        return self.hypergradient(methods(self.problem.rate)[LETTERS[letter]], compiled=compiled)

    def hypergradient(self, method: Method, *, compiled: bool = False) -> Callable[[], Any]:
        """A call of our library by any method; NotImplementedError where this backend does not support it."""
        require(ng, method)
        rate, key = self.problem.rate, {"key": KEY} if method.key else {}
        if method.kind == "minimize":
            inner = ng.Minimize(self.penalised_loss)
        else:
            inner = ng.WeightUpdate(self.penalised_loss, lambda h: ng.optim.sgd(rate))
        return functools.partial(
            ng.hypergradient,
            ng.BilevelProblem(inner, self.outer_loss),
            self.params,
            self.decays,
            method=method.spec,
            inner_batch=self.inner,
            outer_batch=self.outer,
            **key,
            **_compile(ng.hypergradient, compiled=compiled),
        )

    def one_pass(self, *, compiled: bool = False) -> tuple[Any, Any]:
        """(tuner, its first state): every ten steps, five terms; learning rate, momentum and weight decay."""
        inner = ng.WeightUpdate(
            self.inner_loss, lambda h: ng.optim.sgd(h["lr"], momentum=h["momentum"], weight_decay=h["decay"])
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


def _compile(function: Any, *, compiled: bool) -> dict[str, Any]:
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
    hidden = torch.addmm(p["b1"], batch[0], p["w1"]).tanh()  # with kinks, float32 and float64 take different branches
    hidden = torch.addmm(p["b2"], hidden, p["w2"]).tanh()
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


def _recurrent(p: Any, batch: Any) -> Tensor:
    """The products with the words are taken for all steps at once; the states begin at zero."""
    steps = p["words"][batch[0].T]
    for layer in (1, 2):
        entering = steps @ p[f"in{layer}"] + p[f"bias{layer}"]
        hidden = cell = torch.zeros_like(steps[0])
        seen: list[Tensor] = []
        for given in entering.unbind(0):
            gates = torch.addmm(given, hidden, p[f"back{layer}"])
            opened, kept, new, shown = gates.chunk(4, 1)
            cell = kept.sigmoid() * cell + opened.sigmoid() * new.tanh()
            hidden = shown.sigmoid() * cell.tanh()
            seen.append(hidden)
        steps = torch.stack(seen)
    return functional.cross_entropy((steps @ p["w"] + p["b"]).flatten(0, 1), batch[1].T.flatten())


_ERRORS = {
    "regression": _regression,
    "dense": _dense,
    "residual": _residual,
    "logistic": _logistic,
    "recurrent": _recurrent,
}
LN10 = math.log(10.0)

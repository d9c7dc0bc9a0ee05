"""What the benchmarks share: one problem in each framework, its plain training step, and paired ratios.

Threads are set before a framework is imported, so this module comes first in every benchmark.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np

import nestgrad

BACKENDS = ("torch", "jax")
ROWS, VALID_ROWS, INPUTS, HIDDEN = 614, 78, 8, 50
LOG_DECAY = 1.0  # heavy, so that the Hessian is positive definite at random weights and CG takes all its steps
START = {"lr": 1e-2, "momentum": 0.9, "decay": 1e-4}
SOLVERS: dict[str, Any] = {
    "identity": nestgrad.Identity(),
    "neumann": nestgrad.Neumann(num_terms=6, step_size=0.05),  # 5 products
    "cg": nestgrad.CG(rtol=0.0, max_steps=10),
    "dense": nestgrad.Dense(),
}


def require(backend: str) -> None:
    """Skip, as asv understands it, where the backend is not installed."""
    if backend not in nestgrad.available_backends() or importlib.util.find_spec(backend) is None:
        raise NotImplementedError(f"{backend} is not installed")


@dataclass
class Calls:
    """How often the user's losses were called."""

    inner: int = 0
    outer: int = 0

    def counted(self, name: str, loss: Callable[..., Any]) -> Callable[..., Any]:
        """The loss, counting its calls."""

        @functools.wraps(loss)
        def counting(*args: Any) -> Any:
            setattr(self, name, getattr(self, name) + 1)
            return loss(*args)

        return counting


@dataclass
class Setting:
    """One framework's arrays and functions for the problem.

    error: mean squared error, without penalty. penalised: the error plus one decay a weight. plain(loss, batch,
    hparams): a call that takes one plain training step and waits for it.
    """

    ng: Any
    params: Any
    decays: Any
    train: Any
    valid: Any
    error: Callable[..., Any]
    penalised: Callable[..., Any]
    plain: Callable[..., Callable[[], None]]
    optimizer: Callable[[Any], Any]
    adam: Any
    calls: Calls = field(default_factory=Calls)

    def problem(self) -> Any:
        """Tune one decay a weight by minimising the validation error."""
        inner, outer = self.calls.counted("inner", self.penalised), self.calls.counted("outer", self.error)
        return self.ng.BilevelProblem(inner=self.ng.Minimize(inner), outer_loss=outer)

    def hypergradient(self, solver: Any) -> Callable[[], Any]:
        """A call that computes one hypergradient."""
        problem, method = self.problem(), self.ng.Implicit(solver=solver)
        return lambda: self.ng.hypergradient(
            problem, self.params, self.decays, method=method, inner_batch=self.train, outer_batch=self.valid
        )

    def one_pass(self, params: Any = None, error: Any = None) -> tuple[Any, Any]:
        """(tuner, its first state): T = 10, look-back 5; learning rate, momentum and weight decay."""
        loss = self.error if error is None else error
        inner, outer = self.calls.counted("inner", loss), self.calls.counted("outer", loss)
        ng = self.ng
        tuner = ng.OnePass(
            ng.BilevelProblem(ng.WeightUpdate(inner, self.optimizer), outer_loss=outer),
            hparams={
                "lr": ng.Log10(START["lr"]),
                "momentum": ng.Logit(START["momentum"]),
                "decay": ng.Log10(START["decay"]),
            },
            every=10,
            method=ng.Implicit(solver=ng.Neumann(num_terms=5, step_size=1.0)),
            outer_optimizer=self.adam,
        )
        return tuner, tuner.init(self.params if params is None else params)


def setting(backend: str) -> Setting:
    """The problem in one framework, float32, from the same numbers."""
    require(backend)
    return _torch() if backend == "torch" else _jax()


def arrays() -> tuple[dict[str, Any], Any, Any]:
    """(params, training batch, validation batch) in NumPy."""
    rng, biases = np.random.default_rng(0), np.random.default_rng(1)  # no bias is 0, where its decay has no effect

    def batch(rows: int) -> tuple[Any, Any]:
        x = rng.normal(size=(rows, INPUTS))
        return x.astype(np.float32), np.sin(x).sum(1, keepdims=True).astype(np.float32)

    params = {
        "w1": rng.normal(size=(INPUTS, HIDDEN)) / INPUTS**0.5,
        "b1": 0.1 * biases.normal(size=HIDDEN),
        "w2": rng.normal(size=(HIDDEN, 1)) / HIDDEN**0.5,
        "b2": 0.1 * biases.normal(size=1),
    }
    return {name: value.astype(np.float32) for name, value in params.items()}, batch(ROWS), batch(VALID_ROWS)


def _torch() -> Setting:
    import torch

    import nestgrad_torch as ng

    torch.set_num_threads(1)
    start, train, valid = arrays()
    params = {name: torch.tensor(value) for name, value in start.items()}

    def error(p: Any, h: Any, batch: Any) -> Any:
        hidden = torch.relu(torch.addmm(p["b1"], batch[0], p["w1"]))
        return torch.nn.functional.mse_loss(torch.addmm(p["b2"], hidden, p["w2"]), batch[1])

    def penalised(p: Any, h: Any, batch: Any) -> Any:
        return error(p, h, batch) + 0.5 * sum((torch.exp(h[name]) * p[name] ** 2).sum() for name in p)

    def plain(loss: Any, batch: Any, hparams: Any = None, *, momentum: bool) -> Callable[[], None]:
        leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
        extra: dict[str, Any] = {"momentum": START["momentum"], "weight_decay": START["decay"]} if momentum else {}
        optimizer = torch.optim.SGD(leaves.values(), lr=START["lr"], **extra)

        def step() -> None:
            optimizer.zero_grad()
            loss(leaves, hparams, batch).backward()
            optimizer.step()

        return step

    return Setting(
        ng=ng,
        params=params,
        decays={name: torch.full_like(value, LOG_DECAY) for name, value in params.items()},
        train=tuple(map(torch.tensor, train)),
        valid=tuple(map(torch.tensor, valid)),
        error=error,
        penalised=penalised,
        plain=plain,
        optimizer=lambda h: ng.optim.sgd(h["lr"], momentum=h["momentum"], weight_decay=h["decay"]),
        adam=functools.partial(torch.optim.Adam, lr=0.05),
    )


def _jax() -> Setting:
    import jax
    import jax.numpy as jnp
    import optax

    import nestgrad_jax as ng

    start, train, valid = arrays()
    params = {name: jnp.asarray(value) for name, value in start.items()}

    def error(p: Any, h: Any, batch: Any) -> Any:
        hidden = jax.nn.relu(batch[0] @ p["w1"] + p["b1"])
        return jnp.mean((hidden @ p["w2"] + p["b2"] - batch[1]) ** 2)

    def penalised(p: Any, h: Any, batch: Any) -> Any:
        return error(p, h, batch) + 0.5 * sum(jnp.sum(jnp.exp(h[name]) * p[name] ** 2) for name in p)

    def sgd(h: Any) -> Any:
        return optax.chain(optax.add_decayed_weights(h["decay"]), optax.sgd(h["lr"], momentum=h["momentum"]))

    def plain(loss: Any, batch: Any, hparams: Any = None, *, momentum: bool) -> Callable[[], None]:
        rule = sgd(START) if momentum else optax.sgd(START["lr"])
        held = jax.tree.map(jnp.array, (params, rule.init(params)))

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def move(weights: Any, state: Any, hparams: Any, batch: Any) -> Any:
            updates, state = rule.update(jax.grad(loss)(weights, hparams, batch), state, weights)
            return optax.apply_updates(weights, updates), state

        def step() -> None:
            nonlocal held
            held = jax.block_until_ready(move(*held, hparams, batch))

        return step

    return Setting(
        ng=ng,
        params=params,
        decays={name: jnp.full_like(value, LOG_DECAY) for name, value in params.items()},
        train=tuple(map(jnp.asarray, train)),
        valid=tuple(map(jnp.asarray, valid)),
        error=error,
        penalised=penalised,
        plain=plain,
        optimizer=sgd,
        adam=optax.adam(0.05),
    )


def wait(value: Any) -> Any:
    """Block until a jax result is there; torch's on the CPU always is."""
    for leaf in nestgrad.tree.leaves(value):
        if hasattr(leaf, "block_until_ready"):
            leaf.block_until_ready()
    return value


def paired(block: Callable[[], Any], unit: Callable[[], Any], *, pairs: int, scale: float = 1.0) -> list[float]:
    """Processor time of the block over the unit's, times scale, once for each pair; the order alternates A B, B A."""
    ratios: list[float] = []
    for _ in range(2):  # compile and warm
        block()
        unit()
    for pair in range(pairs):
        first, second = (block, unit) if pair % 2 == 0 else (unit, block)
        times = [_processor_time(first), _processor_time(second)]
        ours, units = times if pair % 2 == 0 else reversed(times)
        ratios.append(scale * ours / units)
    return ratios


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _processor_time(call: Callable[[], Any]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started

"""Paired ratios: what tuning and hypergradients cost, in units of one plain training step of the same framework."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.common import BACKENDS, SOLVERS, START, Setting, paired, require, setting, wait

PAIRS = int(os.environ.get("NESTGRAD_BENCH_PAIRS", "15"))
BLOCK = 100
FORMS = ("loop", "scan", "module")


def repeated(call: Callable[[], Any], times: int) -> Callable[[], None]:
    """The call, several times over, each waited for."""

    def block() -> None:
        for _ in range(times):
            wait_for = call()
            if wait_for is not None:
                wait(wait_for)

    return block


def require_form(backend: str, form: str) -> None:
    """Skip, as asv understands it, a form that the framework does not have."""
    if (form, backend) in {("scan", "torch"), ("module", "jax")}:
        raise NotImplementedError(f"{form} is not a form of {backend}")


def one_pass_ratios(backend: str, form: str, pairs: int = PAIRS) -> list[float]:
    """One-pass tuning (T = 10, look-back 5) over plain training, BLOCK steps each: momentum SGD with weight decay.

    form: "loop", a Python loop over steps; "scan", both inside one lax.scan (jax); "module", on an nn.Module (torch).
    """
    require_form(backend, form)
    if form == "scan":
        return _scanned(pairs)
    here = setting(backend)
    if form == "module":
        return paired(*_with_module(here), pairs=pairs)
    tuned = _tuned_block(here, *here.one_pass())
    return paired(tuned, repeated(here.plain(here.error, here.train, momentum=True), BLOCK), pairs=pairs)


def hypergradient_ratios(backend: str, solver: str, pairs: int = PAIRS) -> list[float]:
    """One hypergradient of 501 decays over one plain training step (gradient and SGD update) of the same loss."""
    here = setting(backend)
    call = here.hypergradient(SOLVERS[solver])
    status = call().status
    if not status.ok:
        raise RuntimeError(f"{solver} ended with {status.name}, so that its time is not the one asked for")
    plain = repeated(here.plain(here.penalised, here.train, here.decays, momentum=False), BLOCK)
    calls = 10
    return paired(repeated(lambda: call().total, calls), plain, pairs=pairs, scale=BLOCK / calls)


def _tuned_block(here: Setting, tuner: Any, state: Any) -> Callable[[], None]:
    def block() -> None:
        nonlocal state
        for _ in range(BLOCK):
            state, _ = tuner.step(state, here.train, here.valid)
            wait(state["params"])

    return block


def _with_module(here: Setting) -> tuple[Callable[[], None], Callable[[], None]]:
    import torch

    def module() -> Any:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(8, 50), torch.nn.ReLU(), torch.nn.Linear(50, 1))

    def error(model: Any, h: Any, batch: Any) -> Any:
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])

    trained = module()
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-4)

    def plain() -> None:
        optimizer.zero_grad()
        error(trained, None, here.train).backward()
        optimizer.step()

    return _tuned_block(here, *here.one_pass(module(), error)), repeated(plain, BLOCK)


def _scanned(pairs: int) -> list[float]:
    import jax
    import optax

    here = setting("jax")
    tuner, tuned_state = here.one_pass()
    rule = here.optimizer(START)
    plain_state: Any = (here.params, rule.init(here.params))

    @jax.jit
    def tuned(state: Any) -> Any:
        body = lambda s, _: (tuner.step(s, here.train, here.valid)[0], None)  # noqa: E731
        return jax.lax.scan(body, state, None, length=BLOCK)[0]

    @jax.jit
    def plain(held: Any) -> Any:
        def body(held: Any, _: Any) -> Any:
            weights, state = held
            updates, state = rule.update(jax.grad(here.error)(weights, None, here.train), state, weights)
            return (optax.apply_updates(weights, updates), state), None

        return jax.lax.scan(body, held, None, length=BLOCK)[0]

    def tuned_block() -> None:
        nonlocal tuned_state
        tuned_state = jax.block_until_ready(tuned(tuned_state))

    def plain_block() -> None:
        nonlocal plain_state
        plain_state = jax.block_until_ready(plain(plain_state))

    return paired(tuned_block, plain_block, pairs=pairs)


class OnePass:
    """Target at most 2.2; by the count of operations 1.9."""

    params = (BACKENDS, FORMS)
    param_names = ("backend", "form")
    timeout = 300

    def setup(self, backend: str, form: str) -> None:
        require(backend)
        require_form(backend, form)

    def track_ratio(self, backend: str, form: str) -> float:
        """Median of the pairs."""
        return statistics.median(one_pass_ratios(backend, form))

    track_ratio.unit = "plain training"


class Hypergradient:
    """Neumann with 5 products and CG with 10 steps; by the count of operations 7.0 and 12.8."""

    params = (BACKENDS, ("neumann", "cg"))
    param_names = ("backend", "solver")
    timeout = 300

    def setup(self, backend: str, solver: str) -> None:
        require(backend)

    def track_ratio(self, backend: str, solver: str) -> float:
        """Median of the pairs."""
        return statistics.median(hypergradient_ratios(backend, solver))

    track_ratio.unit = "plain steps"

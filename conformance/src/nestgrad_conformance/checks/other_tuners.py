"""Hypergradient descent, real-time forward mode and one-pass tuning with the optimizer's state carried."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from nestgrad import BilevelProblem, Implicit, Log10, Logit, Neumann, Real, Status, Unrolled, WeightUpdate, tree
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.following import follow
from nestgrad_conformance.harness import Harness
from nestgrad_conformance.problems import Case, SGDFrom
from nestgrad_conformance.problems.ridge import SquaredError
from nestgrad_conformance.problems.tanh_network import NetworkLoss, network_params
from nestgrad_conformance.registry import check
from nestgrad_conformance.tuned import network_leaves, network_spaces

_STEPS = 4


def _regression(draw: Draw, rows: int = 6, n: int = 3) -> tuple[np.ndarray, np.ndarray]:
    return draw.normal(rows, n), draw.normal(rows)


def _slope(w: np.ndarray, batch: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    x, y = batch
    return x.T @ (x @ w - y) / x.shape[0]


@functools.cache
def _descent(ctx: Context, rule: str, step_size: float, kind: str) -> Any:
    """One tuner for all examples, so that a compiling backend compiles once; drawn values go into its state."""
    harness = ctx.harness
    assert harness.sgd is not None
    loss = (SquaredError if kind == "rate" else NetworkLoss)(harness.xp)
    spaces: Any = {"lr": Real(0.1)}
    if kind == "network":
        spaces = {"lr": Log10(0.1), "momentum": Logit(0.5), "weight_decay": Real(0.1)}
    optimizer = SGDFrom(harness.sgd)
    inner = WeightUpdate(_Ungained(loss) if kind == "network" else loss, optimizer)
    tuners: Any = harness.backend
    return tuners.HypergradientDescent(inner, hparams=spaces, step_size=step_size, rule=rule)


class _Ungained:
    """A network loss whose gain is 1, so that every hyperparameter is the optimizer's."""

    def __init__(self, loss: Any) -> None:
        self.loss = loss

    def __call__(self, params: Any, hparams: Any, batch: Any) -> Any:
        return self.loss(params, {"gain": 1.0}, batch)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Ungained) and self.loss == other.loss

    def __hash__(self) -> int:
        return hash(self.loss)


@check("HypergradientDescent", "WeightUpdate", "sgd")
def descent_on_the_rate_equals_its_closed_form(ctx: Context, draw: Draw) -> None:
    """α ← α + κ g_tᵀg_{t-1}, or α ← α (1 + κ cos∠(g_t, g_{t-1})), before the weight step that uses it."""
    rule = draw.pick(["additive", "multiplicative"], "rule")
    kappa = 0.01 if rule == "additive" else 0.05
    tuner = _descent(ctx, rule, kappa, "rate")
    w, alpha = draw.normal(3), np.float64(np.asarray(0.05 + 0.05 * draw.rng.uniform(), ctx.dtype))
    state = {**tuner.init(ctx.arrays({"w": w})), "hparams": ctx.arrays({"lr": np.asarray(alpha)})}
    w, before = ctx.seen(w), None
    limit = 1e-4 if ctx.dtype == "float32" else 1e-11
    for _ in range(_STEPS):
        batch = _regression(draw)
        state, info = tuner.step(state, ctx.arrays(batch))
        slope = _slope(w, ctx.seen(batch))
        if before is not None:
            h = -slope @ before
            cosine = -h / (np.linalg.norm(slope) * np.linalg.norm(before))
            ctx.close(
                info.hypergradient.total, {"lr": np.asarray(h)}, limit, what="total", scale=np.array([abs(h) + 1.0])
            )
            alpha = alpha - kappa * h if rule == "additive" else alpha * (1.0 + kappa * cosine)
        w, before = w - alpha * slope, slope
        ctx.close(info.hparams, {"lr": np.asarray(alpha)}, limit, what="lr")
        ctx.close(state["params"], {"w": w}, limit, what="params", scale=np.full(3, np.linalg.norm(w) + 1.0))


@check("HypergradientDescent", "WeightUpdate", "sgd")
def descent_on_every_setting_equals_the_reference(ctx: Context, draw: Draw) -> None:
    """Rate, momentum and decay in their spaces: four steps as the reference takes them."""
    params = network_params(draw, 2, 2)
    leaves = {"lr": -1.0 + 0.2 * draw.normal(), "momentum": 0.3 * draw.normal(), "weight_decay": np.asarray(0.05)}
    batches = [(draw.normal(6, 2), draw.normal(6)) for _ in range(_STEPS)]
    follow(ctx, lambda c: _descent(c, "additive", 0.01, "network"), params, leaves, [(b,) for b in batches])


@functools.cache
def _real_time(ctx: Context, decay: float, every: int) -> Any:
    harness: Harness = ctx.harness
    assert harness.sgd is not None
    assert harness.adam is not None
    loss = NetworkLoss(harness.xp)
    tuners: Any = harness.backend
    return tuners.RealTime(
        BilevelProblem(WeightUpdate(loss, SGDFrom(harness.sgd)), loss),
        hparams=network_spaces(ctx),
        every=every,
        decay=decay,
        outer_optimizer=harness.adam(0.01),
    )


@check("RealTime", "WeightUpdate", "sgd", "adam")
def real_time_tuning_equals_the_reference(ctx: Context, draw: Draw) -> None:
    """Sensitivities carried along a run whose hyperparameters move at every second step, with and without decay."""
    decay = draw.pick([1.0, 0.5, 0.0], "decay")
    steps = [((draw.normal(6, 2), draw.normal(6)), (draw.normal(4, 2), draw.normal(4))) for _ in range(_STEPS)]
    follow(ctx, lambda c: _real_time(c, decay, 2), network_params(draw, 2, 2), network_leaves(draw), steps)


@check("RealTime", "Unrolled", "WeightUpdate", "sgd", "adam")
def real_time_equals_the_unrolled_derivative_until_the_first_move(ctx: Context, draw: Draw) -> None:
    """With decay 1 the first hyper step's hypergradient is that of all steps so far; with decay 0, of the last."""
    decay = draw.pick([1.0, 0.0], "decay")
    tuner, params, leaves = _real_time(ctx, decay, _STEPS), network_params(draw, 2, 2), network_leaves(draw)
    batches = [(draw.normal(6, 2), draw.normal(6)) for _ in range(_STEPS)]
    outer = (draw.normal(4, 2), draw.normal(4))
    state = {**tuner.init(ctx.arrays(params)), "hparams": ctx.arrays(leaves)}
    info = None
    for batch in batches:
        state, info = tuner.step(state, ctx.arrays(batch), ctx.arrays(outer))
    assert info is not None
    assert bool(info.tuned), f"no hyper step at training step {_STEPS}"
    natural = {
        "lr": 10.0 ** ctx.seen(leaves)["lr"],
        "momentum": 1.0 / (1.0 + np.exp(-ctx.seen(leaves)["momentum"])),
        "weight_decay": ctx.seen(leaves)["weight_decay"],
        "gain": ctx.seen(leaves)["gain"],
    }
    case = Case(
        inner_loss=NetworkLoss,
        outer_loss=NetworkLoss,
        params=params,
        hparams=natural,
        inner_batch=batches[0],
        outer_batch=outer,
        kind="update",
    )
    method = Unrolled(num_steps=_STEPS, lookback=None if decay else 1)
    right = ctx.numpy(ctx.by_method(case, method, inner_batches=batches).total)
    right["lr"] = right["lr"] * math.log(10.0) * natural["lr"]
    right["momentum"] = right["momentum"] * natural["momentum"] * (1.0 - natural["momentum"])
    size = max(float(np.abs(leaf).max()) for leaf in tree.leaves(right)) + 0.1
    limit = 1e-3 if ctx.dtype == "float32" else 1e-9
    ctx.close(info.hypergradient.total, right, limit, what="total", scale=np.full(5, size))
    assert Status(int(info.hypergradient.status)).ok, f"status {info.hypergradient.status!r}"


@functools.cache
def _carried(ctx: Context) -> Any:
    harness: Harness = ctx.harness
    assert harness.sgd is not None
    assert harness.adam is not None
    loss = NetworkLoss(harness.xp)
    tuners: Any = harness.backend
    return tuners.OnePass(
        BilevelProblem(WeightUpdate(loss, SGDFrom(harness.sgd), "weights_and_state"), loss),
        hparams=network_spaces(ctx),
        every=2,
        method=Implicit(solver=Neumann(num_terms=4, step_size=1.0)),
        outer_optimizer=harness.adam(0.01),
    )


@check("OnePass", "WeightUpdate", "Neumann", "sgd", "adam")
def one_pass_with_a_carried_state_equals_the_reference(ctx: Context, draw: Draw) -> None:
    """The series runs over weights and momentum buffer together, from the state that entered the step."""
    steps = [((draw.normal(6, 2), draw.normal(6)), (draw.normal(4, 2), draw.normal(4))) for _ in range(_STEPS)]
    follow(ctx, _carried, network_params(draw, 2, 2), network_leaves(draw), steps)


@check("OnePass", "WeightUpdate", "Implicit", "Neumann", "sgd", "adam", dtypes=("float64",))
def one_pass_with_a_carried_state_takes_the_series_on_both(ctx: Context, draw: Draw) -> None:
    """Its first hypergradient is Σ_j (Aᵀ)ʲ a contracted with B, a = (∂L_out/∂w at the new weights, 0), dense."""
    tuner, params, leaves = _carried(ctx), network_params(draw, 2, 2), network_leaves(draw)
    batches, outer = [(draw.normal(6, 2), draw.normal(6)) for _ in range(2)], (draw.normal(4, 2), draw.normal(4))
    state = {**tuner.init(ctx.arrays(params)), "hparams": ctx.arrays(leaves)}
    state, _ = tuner.step(state, ctx.arrays(batches[0]), ctx.arrays(outer))
    before = ctx.numpy(state["params"])
    natural = {
        "lr": 10.0 ** leaves["lr"],
        "momentum": 1.0 / (1.0 + np.exp(-leaves["momentum"])),
        "weight_decay": leaves["weight_decay"],
        "gain": leaves["gain"],
    }
    first = Case(
        inner_loss=NetworkLoss,
        outer_loss=NetworkLoss,
        params=params,
        hparams=natural,
        inner_batch=batches[0],
        outer_batch=outer,
        warm_grads=tree.map(np.zeros_like, params),
        kind="update with state",
    )
    moved = tree.map(lambda a, b: (a - b) / -natural["lr"], _like_params(before, params), params)  # v after step 1
    here = ctx.materialize(
        first.with_(params=_like_params(before, params)), inner_batch=batches[1], opt_state={"trace": moved}
    )
    state, info = tuner.step(state, ctx.arrays(batches[1]), ctx.arrays(outer))
    there = ctx.materialize(first.with_(params=_like_params(ctx.numpy(state["params"]), params)))
    seed = there.outer_gradient  # zero in the state
    step = np.eye(seed.size) - here.jacobian.T
    p = sum(np.linalg.matrix_power(step, j) for j in range(4)) @ seed
    right = ctx.like(first, there.direct - here.mixed.T @ p)
    right["lr"] = right["lr"] * math.log(10.0) * natural["lr"]
    right["momentum"] = right["momentum"] * natural["momentum"] * (1.0 - natural["momentum"])
    size = max(float(np.abs(leaf).max()) for leaf in tree.leaves(right)) + 0.1
    ctx.close(info.hypergradient.total, right, 1e-8, what="total", scale=np.full(5, size))


def _like_params(values: Any, params: Any) -> Any:
    """The values in the order of params: backends order keys as they do."""
    named = tree.named_leaves(values)
    return tree.unflatten(params, [named[name] for name in tree.named_leaves(params)])

"""Tuners of one shape: windows, whole runs, baselines, guards, warm starts, numbers found by measuring, states."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np

from nestgrad import (
    GMRES,
    BilevelProblem,
    Event,
    Guard,
    Implicit,
    InvalidInput,
    Log10,
    Logit,
    Neumann,
    NonFinite,
    Real,
    Unrolled,
    WeightUpdate,
    choosing,
    tree,
)
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expecting import refused
from nestgrad_conformance.following import follow
from nestgrad_conformance.problems import Case, SGDFrom
from nestgrad_conformance.problems.ridge import SquaredError
from nestgrad_conformance.problems.tanh_network import NetworkLoss, network_params
from nestgrad_conformance.registry import check
from nestgrad_conformance.tuned import network_leaves, network_spaces

_NEEDS = ("WeightUpdate", "sgd", "adam")
_SERIES = Implicit(solver=Neumann(num_terms=3, step_size=1.0))
_SOLVE = Implicit(solver=GMRES(rtol=1e-12, atol=0.0, max_steps=60, restart=9))
_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "series": ("OnePass", {"every": 2, "method": _SERIES}),
    "window": ("OnePass", {"every": 3, "method": Unrolled(num_steps=2)}),
    "window of all": ("OnePass", {"every": 2, "method": Unrolled(num_steps=2, checkpoint_every=1)}),
    "clipped": ("OnePass", {"every": 1, "method": _SERIES, "guard": Guard(max_norm=0.1)}),
    "skipped": ("OnePass", {"every": 1, "method": _SERIES, "guard": Guard(max_norm=0.1, too_long="skip")}),
    "guarded": ("OnePass", {"every": 1, "method": _SERIES, "guard": Guard()}),
    "guarded forward": ("RealTime", {"every": 1, "decay": 1.0, "guard": Guard(max_norm=0.1)}),
    "warm": ("OnePass", {"every": 2, "method": _SOLVE, "warm_start": True}),
    "chosen": ("OnePass", {}),
    "chosen, its interval given": ("OnePass", {"every": 2}),
    "whole runs": ("FullHorizon", {"method": Unrolled(num_steps=2)}),
    "whole runs, stale": ("FullHorizon", {"method": Unrolled(num_steps=2), "stale_state": True}),
}


@functools.cache
def _tuner(ctx: Context, kind: str, copy_number: int = 0) -> Any:
    """One tuner for all examples, so that a compiling backend compiles once; drawn values go into its state."""
    return _made(ctx, kind)


def _made(ctx: Context, kind: str) -> Any:
    harness, (name, options) = ctx.harness, _KINDS[kind]
    assert harness.sgd is not None
    assert harness.adam is not None
    loss = NetworkLoss(harness.xp)
    return getattr(harness.backend, name)(
        BilevelProblem(WeightUpdate(loss, SGDFrom(harness.sgd)), loss),
        hparams=network_spaces(ctx),
        outer_optimizer=harness.adam(0.01),
        **options,
    )


def _steps(draw: Draw, count: int) -> list[tuple[Any, Any]]:
    return [((draw.normal(6, 2), draw.normal(6)), (draw.normal(4, 2), draw.normal(4))) for _ in range(count)]


def _followed(ctx: Context, draw: Draw, kind: str, count: int = 6) -> tuple[Any, Any]:
    made = functools.partial(_tuner, kind=kind)
    return follow(ctx, made, network_params(draw, 2, 2), network_leaves(draw), _steps(draw, count))


@check("OnePass", "Unrolled", *_NEEDS, slow=True)
def one_pass_along_a_window_equals_the_reference(ctx: Context, draw: Draw) -> None:
    """Hypergradients through the last 2 of every 3 steps, or through all of every 2, on their own batches."""
    _followed(ctx, draw, draw.pick(["window", "window of all"], "kind"))


@check("OnePass", "Unrolled", *_NEEDS, slow=True)
def a_window_is_the_unrolled_derivative_of_its_steps(ctx: Context, draw: Draw) -> None:
    """The third step's hypergradient is that of Unrolled(num_steps=2) from the weights and state after the first."""
    tuner, params, leaves, steps = (
        _tuner(ctx, "window"),
        network_params(draw, 2, 2),
        network_leaves(draw),
        _steps(draw, 3),
    )
    state = {**tuner.init(ctx.arrays(params)), "hparams": ctx.arrays(leaves)}
    seen, info = [], None
    for inner, outer in steps:
        seen.append((state["params"], state["opt_state"]))
        state, info = tuner.step(state, ctx.arrays(inner), ctx.arrays(outer))
    assert info is not None
    problem, _, _ = ctx.point(
        Case(
            inner_loss=NetworkLoss,
            outer_loss=NetworkLoss,
            params=params,
            hparams=leaves,
            inner_batch=steps[0][0],
            outer_batch=steps[-1][1],
            kind="update",
        )
    )
    values = tuner.values({**state, "hparams": ctx.arrays(leaves)})
    backend: Any = ctx.harness.backend
    right = backend.hypergradient(
        problem,
        seen[1][0],
        values,
        method=Unrolled(num_steps=2),
        opt_state=seen[1][1],
        outer_batch=ctx.arrays(steps[-1][1]),
        inner_batches=[ctx.arrays(inner) for inner, _ in steps[1:]],
    )
    slopes = ctx.numpy(values)
    slopes = {
        "lr": np.log(10.0) * slopes["lr"],
        "momentum": slopes["momentum"] * (1.0 - slopes["momentum"]),
        "weight_decay": 1.0,
        "gain": 1.0,
    }
    wanted = {name: total * slopes[name] for name, total in ctx.numpy(right.total).items()}
    size = max(float(np.abs(total).max()) for total in wanted.values()) + 0.1
    limit = 1e-4 if ctx.dtype == "float32" else 1e-9
    ctx.close(info.hypergradient.total, wanted, limit, what="total", scale=np.full(5, size))
    ctx.close(state["params"], ctx.numpy(right.params), limit, what="params", scale=np.ones(9))


@check("OnePass", "Unrolled", *_NEEDS)
def a_window_longer_than_its_interval_is_refused(ctx: Context, draw: Draw) -> None:
    """num_steps above `every` raises InvalidInput naming both."""
    harness = ctx.harness
    assert harness.sgd is not None
    assert harness.adam is not None
    loss, tuners = NetworkLoss(harness.xp), harness.backend
    of_backend: Any = tuners
    with refused(InvalidInput, "num_steps=3", "every=2"):
        of_backend.OnePass(
            BilevelProblem(WeightUpdate(loss, SGDFrom(harness.sgd)), loss),
            hparams=network_spaces(ctx),
            every=2,
            method=Unrolled(num_steps=3),
            outer_optimizer=harness.adam(0.01),
        )


@check("FullHorizon", "Unrolled", *_NEEDS, slow=True)
def full_horizon_tuning_equals_the_reference(ctx: Context, draw: Draw) -> None:
    """Three runs of two steps from the same weights, the optimizer's state begun anew or kept."""
    _followed(ctx, draw, draw.pick(["whole runs", "whole runs, stale"], "kind"))


@check("FullHorizon", "Unrolled", *_NEEDS, slow=True)
def every_whole_run_begins_at_the_same_weights(ctx: Context, draw: Draw) -> None:
    """The second run's first step, on the first batch and hyperparameters, ends where that of the first run did."""
    tuner, leaves, steps = _tuner(ctx, "whole runs"), network_leaves(draw), _steps(draw, 2)
    state = {**tuner.init(ctx.arrays(network_params(draw, 2, 2))), "hparams": ctx.arrays(leaves)}
    ends = []
    for inner, outer in (*steps, steps[0]):
        state, _ = tuner.step({**state, "hparams": ctx.arrays(leaves)}, ctx.arrays(inner), ctx.arrays(outer))
        ends.append(ctx.numpy(state["params"]))
    pairs = list(zip(tree.leaves(ends[0]), tree.leaves(ends[2]), strict=True))
    assert all(np.array_equal(first, again) for first, again in pairs), f"{ends[2]} instead of {ends[0]}"
    assert not all(np.array_equal(a, b) for a, b in zip(tree.leaves(ends[0]), tree.leaves(ends[1]), strict=True))


def _alone(ctx: Context, name: str, **options: Any) -> Any:
    harness = ctx.harness
    assert harness.sgd is not None
    return getattr(harness.backend, name)(
        WeightUpdate(NetworkLoss(harness.xp), SGDFrom(harness.sgd)), hparams=network_spaces(ctx), **options
    )


@functools.cache
def _fixed(ctx: Context) -> Any:
    return _alone(ctx, "Fixed")


@functools.cache
def _multiplied(ctx: Context) -> Any:
    return _alone(ctx, "RandomMultiplier", every=2)


@check("Fixed", "WeightUpdate", "sgd")
def fixed_hyperparameters_stay(ctx: Context, draw: Draw) -> None:
    """Weights follow the reference's plain training; the hyperparameters keep their bits; no step tunes."""
    state, _ = follow(ctx, _fixed, network_params(draw, 2, 2), leaves := network_leaves(draw), _steps(draw, 3))
    kept = ctx.numpy(ctx.arrays(leaves))
    assert all(np.array_equal(ctx.numpy(state["hparams"])[name], kept[name]) for name in kept), state["hparams"]


@check("RandomMultiplier", "WeightUpdate", "sgd")
def multiplied_hyperparameters_equal_the_reference(ctx: Context, draw: Draw) -> None:
    """After every second step each natural value is multiplied by its factor in the state, and by nothing else."""
    low, high = 0.95, 1.01
    factors = {name: np.asarray(draw.rng.uniform(low, high)) for name in network_spaces(ctx)}
    params, leaves = network_params(draw, 2, 2), network_leaves(draw)
    state, _ = follow(ctx, _multiplied, params, leaves, _steps(draw, 4), beside={"multipliers": factors}, key=0)
    start = ctx.numpy(_multiplied(ctx).values({**state, "hparams": ctx.arrays(leaves)}))
    end = ctx.numpy(_multiplied(ctx).values(state))
    for name, factor in ctx.seen(factors).items():
        error = np.abs(end[name] - start[name] * factor**2).max()
        assert error <= (1e-5 if ctx.dtype == "float32" else 1e-12), f"{name}: {end[name]} from {start[name]}, {factor}"


@check("RandomMultiplier", "WeightUpdate", "sgd")
def factors_are_drawn_once_by_their_key(ctx: Context, draw: Draw) -> None:
    """One factor a hyperparameter, within the range; the same key draws the same, another key others."""
    params = ctx.arrays(network_params(draw, 2, 2))
    first, again, other = (ctx.numpy(_multiplied(ctx).init(params, key=key)["multipliers"]) for key in (3, 3, 4))
    assert first.keys() == network_spaces(ctx).keys(), f"factors of {sorted(first)}"
    assert all(factor.shape == () and 0.95 <= factor < 1.01 for factor in first.values()), first
    assert all(first[name] == again[name] for name in first), f"{again} instead of {first}"
    assert any(first[name] != other[name] for name in first), f"key 4 draws {other} as key 3 does"
    assert len({float(factor) for factor in first.values()}) == len(first), f"factors are alike: {first}"


@check("OnePass", "Neumann", *_NEEDS, slow=True)
def guarded_tuning_equals_the_reference(ctx: Context, draw: Draw) -> None:
    """Hypergradients clipped to a norm, or skipped beyond it, along six hyper steps; their events are counted."""
    state, other = _followed(ctx, draw, draw.pick(["clipped", "skipped"], "kind"))
    found, right = ({name: int(n) for name, n in each["events"].items()} for each in (state, other))
    assert found == right, f"events {found}, expected {right}"
    assert sum(right.values()) <= 6, f"{right} in 6 hyper steps"


@check("RealTime", *_NEEDS, slow=True)
def guarded_forward_tuning_equals_the_reference(ctx: Context, draw: Draw) -> None:
    """The same guard in real-time forward mode."""
    state, other = _followed(ctx, draw, "guarded forward", 4)
    assert {k: int(v) for k, v in state["events"].items()} == other["events"], f"events {state['events']}"


@check("OnePass", "Neumann", *_NEEDS, slow=True)
def a_guard_rolls_a_nonfinite_hyper_step_back(ctx: Context, draw: Draw) -> None:
    """A NaN in the outer batch leaves hyperparameters and the outer optimizer's state as they were, bit for bit.

    The training step is taken, the event is SKIPPED and counted, and the run goes on as if no step had been due.
    """
    tuner, steps = _tuner(ctx, "guarded"), _steps(draw, 3)
    state = {**tuner.init(ctx.arrays(network_params(draw, 2, 2))), "hparams": ctx.arrays(network_leaves(draw))}
    state, _ = tuner.step(state, *ctx.arrays(steps[0]))
    after = _rolled_back(ctx, tuner, state, *steps[1])
    after, info = tuner.step(after, *ctx.arrays(steps[2]))
    assert int(info.event) == Event.NONE, f"event {info.event!r} on the step after"


def _rolled_back(ctx: Context, tuner: Any, state: Any, inner: Any, outer: Any) -> Any:
    """The state after a hyper step, due now, whose outer batch is spoilt by a NaN; asserts that it is skipped."""
    x, y = outer
    spoilt = ctx.arrays((x, np.where(np.arange(y.size) == 0, np.nan, y)))
    try:
        after, info = tuner.step(state, ctx.arrays(inner), spoilt)
    except NonFinite as error:
        raise AssertionError(f"the step raised where a guard was to skip it: {error}") from error
    assert int(info.event) == Event.SKIPPED, f"event {info.event!r}"
    assert not bool(info.hypergradient.status == 0), f"status {info.hypergradient.status!r}"
    assert {k: int(v) for k, v in after["events"].items()} == {"clipped": 0, "skipped": 1}, after["events"]
    for part in ("hparams", "outer_opt_state"):
        before, now = (_numbers(ctx, each[part]) for each in (state, after))
        assert all(np.array_equal(a, b) for a, b in zip(before, now, strict=True)), f"{part} changed: {now}"
    moved = zip(tree.leaves(ctx.numpy(state["params"])), tree.leaves(ctx.numpy(after["params"])), strict=True)
    assert not all(np.array_equal(a, b) for a, b in moved), "the training step was not taken"
    return after


def _numbers(ctx: Context, values: Any) -> list[np.ndarray]:
    """The arrays and numbers of a state, whatever trees and tuples they are in; dicts by key, as some backends sort."""
    if isinstance(values, dict):
        return [found for name in sorted(values, key=str) for found in _numbers(ctx, values[name])]
    if isinstance(values, (list, tuple)):
        return [found for value in values for found in _numbers(ctx, value)]
    return [] if values is None else [np.asarray(ctx.harness.to_numpy(values) if hasattr(values, "dtype") else values)]


@check("OnePass", "GMRES", *_NEEDS, slow=True, dtypes=("float64",))
def warm_started_tuning_equals_the_reference(ctx: Context, draw: Draw) -> None:
    """Solves that start from the last hyper step's adjoint, which the state keeps, end where cold ones do."""
    state, other = _followed(ctx, draw, "warm", 4)
    found, right = (np.concatenate([np.ravel(x) for x in _numbers(ctx, each["adjoint"])]) for each in (state, other))
    order = np.linalg.norm(np.sort(found) - np.sort(right))  # backends order keys as they do
    assert order <= 1e-6 * np.linalg.norm(right), f"adjoint {found}, expected {right}"
    assert np.linalg.norm(right) > 0.0, "the state keeps no adjoint"


@check("OnePass", "Neumann", *_NEEDS, slow=True, dtypes=("float64",))
def numbers_found_by_measuring_equal_the_reference(ctx: Context, draw: Draw) -> None:
    """Without a method, with or without an interval, the look-back and interval are the reference's at every step."""
    state, other = _followed(ctx, draw, draw.pick(["chosen", "chosen, its interval given"], "kind"))
    found, right = ({name: float(x) for name, x in each["chosen"].items()} for each in (state, other))
    assert found == right, f"chosen {found}, expected {right}"


@check("OnePass", "Neumann", *_NEEDS, slow=True, dtypes=("float64",))
def a_probe_chooses_as_the_reference(ctx: Context, draw: Draw) -> None:
    """From any numbers in force, far from stability's edge, near it and beyond it: the same move, the same numbers.

    A probe and, from the same start, a hyper step that is none. At a rate of 0.01 directions change with the terms.
    """
    made = functools.partial(_tuner, kind=draw.pick(["chosen", "chosen, its interval given"], "kind"))
    drawn, near = draw.pick(choosing.LEVELS, "terms"), draw.pick([False, True], "near")
    for rate, terms in ((1e-5, drawn), (0.01, 5), (0.01, 9), (3.0, drawn)):
        params, leaves, steps = network_params(draw, 2, 2), network_leaves(draw), _steps(draw, 1)
        leaves["lr"] += np.log10(rate / 0.1)
        for until_probe in (0, 3):
            chosen = {"every": 2, "num_terms": terms, "near": near, "since": 1, "until_probe": until_probe}
            state, other = follow(ctx, made, params, leaves, steps, chosen=chosen)
            found, right = ({name: float(x) for name, x in each["chosen"].items()} for each in (state, other))
            assert found == right, f"chosen {found}, expected {right} at a rate near {rate}"


@functools.cache
def _on_a_line(ctx: Context) -> Any:
    harness = ctx.harness
    assert harness.sgd is not None
    assert harness.adam is not None
    loss, tuners = SquaredError(harness.xp), harness.backend
    of_backend: Any = tuners
    return of_backend.OnePass(
        BilevelProblem(WeightUpdate(loss, SGDFrom(harness.sgd)), loss),
        hparams={"lr": Log10(0.1), "momentum": Logit(0.5), "weight_decay": Real(0.1)},
        outer_optimizer=harness.adam(0.01),
    )


@check("OnePass", "Neumann", *_NEEDS, slow=True)
def beyond_stability_the_chosen_sum_turns_the_rate_back(ctx: Context, draw: Draw) -> None:
    """A rate of 2 to 3 over the curvature of one weight overshoots: its terms grow, and the hyper step lowers it."""
    tuner, terms = _on_a_line(ctx), draw.pick(choosing.LEVELS[1:], "terms")
    x, overshoot = draw.normal(6, 1), draw.rng.uniform(2.1, 3.0)
    leaves = {
        "lr": np.asarray(np.log10(overshoot / (x**2).mean())),
        "momentum": np.asarray(0.0),
        "weight_decay": np.asarray(0.0),
    }
    state = {**tuner.init(ctx.arrays({"w": 1.0 + draw.normal(1) ** 2})), "hparams": ctx.arrays(leaves)}
    state["chosen"] = {
        "every": 3,
        "num_terms": terms,
        "near": True,
        "since": 2,
        "until_probe": draw.pick([0, 2], "until probe"),
    }
    batch = ctx.arrays((x, np.zeros(6)))
    after, info = tuner.step(state, batch, batch)
    contraction = float(ctx.numpy(info.hypergradient.stats.contraction))
    assert contraction > 1.0, f"contraction {contraction} at {overshoot} over the curvature"
    assert int(info.event) == Event.NONE, f"event {info.event!r}"
    before, now = (float(ctx.numpy(each["hparams"])["lr"]) for each in (state, after))
    assert now < before, f"the rate's leaf goes from {before} to {now} at {overshoot} over the curvature, {terms} terms"
    if not state["chosen"]["until_probe"]:
        right = {"every": 10, "num_terms": 5, "near": True, "since": 0, "until_probe": 19}
        assert {name: int(x) for name, x in after["chosen"].items()} == right, after["chosen"]


@check("OnePass", "Neumann", *_NEEDS, slow=True)
def without_a_method_what_is_not_finite_is_skipped(ctx: Context, draw: Draw) -> None:
    """A NaN in the outer batch ends no run: the hyper step is rolled back bit for bit, and a probe turns cautious."""
    tuner, until_probe = _tuner(ctx, "chosen"), draw.pick([0, 3], "until probe")
    state = {**tuner.init(ctx.arrays(network_params(draw, 2, 2))), "hparams": ctx.arrays(network_leaves(draw))}
    state["chosen"] = {"every": 3, "num_terms": 3, "near": False, "since": 2, "until_probe": until_probe}
    after = _rolled_back(ctx, tuner, state, *_steps(draw, 1)[0])
    right = {"every": 10, "num_terms": 5, "near": True, "since": 0, "until_probe": 19}
    if until_probe:
        right = {"every": 3, "num_terms": 3, "near": False, "since": 0, "until_probe": until_probe - 1}
    assert {name: int(x) for name, x in after["chosen"].items()} == right, f"{after['chosen']}, expected {right}"


@check("OnePass", "FullHorizon", "Unrolled", "Neumann", *_NEEDS, slow=True)
def all_that_a_run_needs_is_in_its_state(ctx: Context, draw: Draw) -> None:
    """From a copy of the state in the middle of an interval, a new tuner goes on as the old one does, bit for bit.

    Momentum, the outer optimizer's moments, the phase within the interval, windows, counts and initial weights.
    """
    kind = draw.pick(["series", "window", "clipped", "chosen", "whole runs"], "kind")
    tuner, again, steps = _tuner(ctx, kind), _tuner(ctx, kind, copy_number=1), _steps(draw, 7)
    state = {**tuner.init(ctx.arrays(network_params(draw, 2, 2))), "hparams": ctx.arrays(network_leaves(draw))}
    for pair in steps[:3]:
        state, _ = tuner.step(state, *ctx.arrays(pair))
    copied = copy.deepcopy(state)
    for pair in steps[3:]:
        state, _ = tuner.step(state, *ctx.arrays(pair))
        copied, _ = again.step(copied, *ctx.arrays(pair))
    for part in ("params", "hparams", "outer_opt_state"):
        here, there = (_numbers(ctx, each[part]) for each in (state, copied))
        assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True)), f"{part}: {there}, expected {here}"

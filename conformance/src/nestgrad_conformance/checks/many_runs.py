"""Many runs on a leading axis: each as it is alone, and none seeing another."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from nestgrad import (
    CG,
    BilevelProblem,
    Guard,
    Implicit,
    InvalidInput,
    Neumann,
    Unrolled,
    UnsupportedSpec,
    WeightUpdate,
    tree,
)
from nestgrad_conformance.context import Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expecting import refused
from nestgrad_conformance.problems import SGDFrom
from nestgrad_conformance.problems.tanh_network import NetworkLoss, network_params
from nestgrad_conformance.registry import check
from nestgrad_conformance.tuned import network_spaces

_NEEDS = ("ManyRuns", "OnePass", "WeightUpdate", "sgd", "adam")
_RUNS, _STEPS = 3, 4
_SERIES = Implicit(solver=Neumann(num_terms=3, step_size=1.0))
_KINDS: dict[str, dict[str, Any]] = {
    "series": {"every": 2, "method": _SERIES},
    "window": {"every": 2, "method": Unrolled(num_steps=2)},
    "guarded": {"every": 1, "method": _SERIES, "guard": Guard(max_norm=0.3)},
}


@functools.cache
def _single(ctx: Context, kind: str) -> Any:
    """One tuner for all examples, so that a compiling backend compiles once."""
    return _tuner(ctx, **_KINDS[kind])


def _tuner(ctx: Context, **options: Any) -> Any:
    harness = ctx.harness
    assert harness.sgd is not None
    assert harness.adam is not None
    loss, tuners = NetworkLoss(harness.xp), harness.backend
    of_backend: Any = tuners
    return of_backend.OnePass(
        BilevelProblem(WeightUpdate(loss, SGDFrom(harness.sgd)), loss),
        hparams=network_spaces(ctx),
        outer_optimizer=harness.adam(0.01),
        throw=False,
        **options,
    )


@functools.cache
def _many(ctx: Context, kind: str, *, shared: bool = True) -> Any:
    tuners: Any = ctx.harness.backend
    return tuners.ManyRuns(_single(ctx, kind), runs=_RUNS, shared_batches=shared)


def _drawn(draw: Draw) -> tuple[list[Any], list[Any], list[Any]]:
    """Weights and natural values of each run, and batches."""
    params = [network_params(draw, 2, 2) for _ in range(_RUNS)]
    values = [
        {
            "lr": np.asarray(0.1 * np.exp(0.5 * draw.normal())),
            "momentum": np.asarray(draw.rng.uniform(0.2, 0.8)),
            "weight_decay": np.asarray(0.05 + 0.02 * draw.normal()),
            "gain": 1.0 + 0.1 * draw.normal(2),
        }
        for _ in range(_RUNS)
    ]
    steps = [((draw.normal(6, 2), draw.normal(6)), (draw.normal(4, 2), draw.normal(4))) for _ in range(_STEPS)]
    return params, values, steps


def _stacked(trees: list[Any]) -> Any:
    return tree.map(lambda *leaves: np.stack(leaves), *trees)


def _started(ctx: Context, kind: str, params: Any, values: Any) -> Any:
    """The state of a single run with these natural values."""
    tuner = _single(ctx, kind)
    begun = _many(ctx, kind).init(ctx.arrays(_stacked([params] * _RUNS)), ctx.arrays(_stacked([values] * _RUNS)))
    leaves = tree.map(lambda leaf: leaf[0], begun["hparams"])
    return {**tuner.init(ctx.arrays(params)), "hparams": leaves}


@check(*_NEEDS, "Neumann", "Unrolled", slow=True)
def many_runs_equal_single_runs(ctx: Context, draw: Draw) -> None:
    """Four steps of three runs, on shared batches or their own: weights, hyperparameters and hypergradients of each.

    To 1e-10 in float64 and 1e-5 in float32.
    """
    kind, shared = draw.pick(list(_KINDS), "kind"), draw.pick([True, False], "shared batches")
    params, values, steps = _drawn(draw)
    many = _many(ctx, kind, shared=shared)
    state = many.init(ctx.arrays(_stacked(params)), ctx.arrays(_stacked(values)))
    singles = [_started(ctx, kind, *pair) for pair in zip(params, values, strict=True)]
    limit = 1e-5 if ctx.dtype == "float32" else 1e-10
    for batches in steps:
        own = [tree.map(lambda x, r=r: x + 0.1 * r * (not shared), batches) for r in range(_RUNS)]
        state, info = many.step(state, *ctx.arrays(batches if shared else _stacked(own)))
        for r in range(_RUNS):
            singles[r], seen = _single(ctx, kind).step(singles[r], *ctx.arrays(own[r]))
            pairs = [
                (state["params"], singles[r]["params"], "params"),
                (state["hparams"], singles[r]["hparams"], "hparams"),
                (info.hypergradient.total, seen.hypergradient.total, "total"),
                ({"": info.inner_loss}, {"": seen.inner_loss}, "inner_loss"),
                (info.hparams, seen.hparams, "values"),
            ]
            for found, right, what in pairs:
                _close(ctx, found, right, r, limit, what)
            if bool(seen.tuned):
                _close(ctx, {"": info.hypergradient.outer_loss}, {"": seen.hypergradient.outer_loss}, r, limit, "outer")
            assert int(_numpy(ctx, info.event)[r]) == int(seen.event), f"run {r}: event {info.event}, {seen.event!r}"
            status = int(_numpy(ctx, info.hypergradient.status)[r])
            assert status == int(seen.hypergradient.status), f"run {r}: status {status}, {seen.hypergradient.status!r}"
            assert bool(info.tuned) == bool(seen.tuned), f"tuned {info.tuned}, expected {seen.tuned}"


@check(*_NEEDS, "Neumann", slow=True)
def a_nan_stays_in_its_run(ctx: Context, draw: Draw) -> None:
    """With a NaN among the second run's weights, the others keep their bits, and its status alone says NONFINITE."""
    params, values, steps = _drawn(draw)
    ends: list[Any] = []
    many, told = _many(ctx, "series"), None
    for spoiled in (False, True):
        start = _stacked(params)
        if spoiled:
            start["out"]["v"][1, 0] = np.nan
        state = many.init(ctx.arrays(start), ctx.arrays(_stacked(values)))
        for batches in steps:
            state, told = many.step(state, *ctx.arrays(batches))
        ends.append(ctx.numpy((state["params"], state["hparams"])))
    for whole, found in zip(tree.leaves(ends[0]), tree.leaves(ends[1]), strict=True):
        for r in (0, 2):
            assert np.array_equal(whole[r], found[r]), f"run {r}: {found[r]} beside a NaN, {whole[r]} without"
    assert told is not None
    statuses = [int(status) for status in _numpy(ctx, told.hypergradient.status)]
    assert statuses[1] == 9, f"statuses {statuses}, expected NONFINITE (9) in run 1"
    assert 9 not in {statuses[0], statuses[2]}, f"statuses {statuses}, expected NONFINITE (9) in run 1 alone"


@check(*_NEEDS, "Neumann", slow=True)
def a_block_of_many_runs_equals_its_steps(ctx: Context, draw: Draw) -> None:
    """`run` over four batches ends where four steps with one outer batch do; its losses are (steps, runs)."""
    params, values, steps = _drawn(draw)
    many = _many(ctx, "series")
    state = many.init(ctx.arrays(_stacked(params)), ctx.arrays(_stacked(values)))
    outer = ctx.arrays(steps[0][1])
    arrived, told = many.run(state, [ctx.arrays(inner) for inner, _ in steps], outer)
    losses = []
    for inner, _ in steps:
        state, info = many.step(state, ctx.arrays(inner), outer)
        losses.append(_numpy(ctx, info.inner_loss))
    limit = 1e-5 if ctx.dtype == "float32" else 1e-10
    for part in ("params", "hparams"):
        ctx.close(arrived[part], ctx.numpy(state[part]), limit, what=part, scale=np.ones(100))
    ctx.close({"": told.inner_losses}, {"": np.stack(losses)}, limit, what="inner_losses", scale=np.ones(100))
    assert len(told.hypergradients) == _STEPS // 2, f"{len(told.hypergradients)} hypergradients"


@check(*_NEEDS, "CG")
def what_many_runs_cannot_share_is_refused(ctx: Context, draw: Draw) -> None:
    """A solver whose steps depend on the numbers, look-backs of their own, and wrong leading axes, by name."""
    tuners: Any = ctx.harness.backend
    with refused(UnsupportedSpec, "CG"):
        tuners.ManyRuns(_tuner(ctx, every=2, method=Implicit(solver=CG(rtol=0.0, atol=0.0, max_steps=3))), runs=2)
    with refused(UnsupportedSpec, "look-back"):
        tuners.ManyRuns(_tuner(ctx), runs=2)
    with refused(InvalidInput, "runs"):
        tuners.ManyRuns(_single(ctx, "series"), runs=0)
    with refused(InvalidInput, "one entry a run"):
        _many(ctx, "series").init(ctx.arrays(network_params(draw, 2, 2)))


def _numpy(ctx: Context, values: Any) -> np.ndarray:
    return np.asarray(ctx.harness.to_numpy(values))


def _close(ctx: Context, found: Any, right: Any, run: int, limit: float, what: str) -> None:
    """Run `run` of stacked leaves against a single run's, to `limit` of the larger of 1 and the largest entry."""
    single = tree.named_leaves(right)
    for name, leaf in tree.named_leaves(found).items():
        here, alone = np.asarray(_numpy(ctx, leaf)[run], np.float64), np.asarray(_numpy(ctx, single[name]), np.float64)
        error = float(np.abs(here - alone).max()) if alone.size else 0.0
        bound = limit * max(1.0, float(np.abs(alone).max()))
        assert error <= bound, f"{what}[{name!r}] of run {run}: {here}, alone {alone}, limit {bound:.3g}"

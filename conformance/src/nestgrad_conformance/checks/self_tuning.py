"""Self-tuning along whole steps: every objective equals the reference's, and a step does what is due and no more."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from nestgrad import (
    Event,
    GatedResponse,
    Guard,
    InvalidInput,
    Log,
    NonFinite,
    Real,
    Softplus,
    UnsupportedOptimizer,
    tree,
)
from nestgrad_conformance.context import REFERENCE, Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.expecting import refused
from nestgrad_conformance.following import follow
from nestgrad_conformance.learned import drawn_response
from nestgrad_conformance.problems import gated_batch, gated_leaves, gated_params, gated_problem
from nestgrad_conformance.registry import check

_NEEDS = ("SelfTuning", "gated", "GatedResponse", "Minimize", "optim", "adam")
_ENTRIES, _INNER, _OUTER = 4, 4, 3
_ACROSS = GatedResponse(axes=(("hidden/weight", 1),))

_TUNERS: tuple[dict[str, Any], ...] = (
    {"objective": "sampled", "entropy": 0.05, "every": 2, "shared": ("decay",)},
    {"objective": "centred", "entropy": None, "every": 2, "warmup_steps": 1},
    {"objective": "linearised", "entropy": 0.05, "every": 1, "shared": ("scale",), "guard": Guard(max_norm=0.05)},
    {"objective": "sampled", "samples": 2, "entropy": None, "every": 1, "warmup_steps": 2, "response": _ACROSS},
    {"objective": "centred", "samples": 3, "entropy": 0.05, "every": 1, "guard": Guard(max_norm=0.05)},
    {"objective": "linearised", "samples": 2, "entropy": 0.05, "every": 2, "warmup_steps": 1, "response": _ACROSS},
)


@functools.cache
def _tuner(ctx: Context, number: int) -> Any:
    """One tuner for all examples of a kind, so that a compiling backend compiles once."""
    harness, backend = ctx.harness, ctx.harness.backend
    tuners: Any = backend
    assert harness.optim is not None and harness.adam is not None
    spaces = {"scale": Log(ctx.arrays(np.ones(2))), "decay": Real(0.5, clip=(-3.0, 0.45)), "gain": Softplus(1.0)}
    rule = harness.optim.sgd(0.03, 0.5) if number % 2 else harness.optim.adam(0.01)
    settings = _TUNERS[number]
    return tuners.SelfTuning(
        gated_problem(harness), hparams=spaces, optimizer=rule, outer_optimizer=harness.adam(0.05), **settings
    )


def _begun(draw: Draw, number: int) -> tuple[Any, Any]:
    """(leaves, further entries of the state): hyperparameters, response and scales."""
    response = _TUNERS[number].get("response", GatedResponse())
    phi = drawn_response(draw, response, gated_params(draw), _ENTRIES)
    return gated_leaves(draw), {"params": phi, "scales": 0.3 * draw.normal(_ENTRIES) - 1.0}


def _noise(draw: Draw, number: int) -> tuple[np.ndarray, np.ndarray]:
    samples = _TUNERS[number].get("samples")
    return draw.normal(samples or _INNER, _ENTRIES), draw.normal(samples or _OUTER, _ENTRIES)


def _state(ctx: Context, tuner: Any, leaves: Any, beside: Any, **options: Any) -> Any:
    begun = tuner.init(ctx.arrays(beside["params"]["bias"]), key=0)
    return {**begun, "hparams": ctx.arrays(leaves), **ctx.arrays(beside), **options}


@check(*_NEEDS)
def self_tuning_equals_the_reference(ctx: Context, draw: Draw) -> None:
    """Each objective, by rows and by draws, with noise that is given: weights, leaves, scales and hypergradients."""
    number = draw.pick(range(len(_TUNERS)), "tuner")
    leaves, beside = _begun(draw, number)
    steps = [(gated_batch(draw, _INNER), gated_batch(draw, _OUTER)) for _ in range(3)]
    noises = [_noise(draw, number) for _ in steps]
    bias = beside["params"]["bias"]
    also, parts = ("scales",), ("total", "direct", "indirect")
    follow(
        ctx,
        lambda c: _tuner(c, number),
        bias,
        leaves,
        steps,
        beside=beside,
        noises=noises,
        also=also,
        parts=parts,
        key=0,
    )


@check(*_NEEDS)
def self_tuning_reports_what_it_saw(ctx: Context, draw: Draw) -> None:
    """Losses and norms of a step; after it natural values, scales, weights at λ̂, and φ as `respond` takes it."""
    number = draw.pick(range(len(_TUNERS)), "tuner")
    leaves, beside = _begun(draw, number)
    batches, noise = (gated_batch(draw, _INNER), gated_batch(draw, _OUTER)), _noise(draw, number)
    seen = []
    for c in (ctx, Context(REFERENCE, ctx.dtype)):
        tuner = _tuner(c, number)
        put = c.arrays if c is ctx else c.seen
        state = {**_state(c, tuner, leaves, beside), **put({"hparams": leaves, **beside})}
        state, _ = tuner.step(state, *map(put, batches), noise=put(noise))
        state, info = tuner.step(state, *map(put, batches), noise=put(noise))
        state, info = tuner.step(state, *map(put, batches), noise=put(noise)) if not bool(info.tuned) else (state, info)
        found = info.hypergradient
        numbers = [found.stats.indirect_norm, found.stats.params_norm, found.stats.inner_optimality]
        trees = {
            "losses": {"inner": info.inner_loss, "outer": found.outer_loss},
            "values": tuner.values(state),
            "scales": tuner.scales(state),
            "params": tuner.response_params(state),
            "weights": tuner.response_weights(state),
        }
        seen.append((np.array([float(np.asarray(c.harness.to_numpy(x))) for x in numbers]), trees, state, tuner))
    (found, trees, state, tuner), (wanted, right, *_) = seen
    limit = 1e-3 if ctx.dtype == "float32" else 1e-9
    for what, expected in right.items():
        size = np.ones(sum(map(np.size, tree.leaves(expected))))
        ctx.close(trees[what], tree.map(np.asarray, expected), limit, what=what, scale=size)
    assert np.all(np.abs(found - wanted) <= limit * (1.0 + wanted)), f"norms {found}, expected {wanted}"
    backend: Any = ctx.harness.backend
    again = backend.respond(tuner.response, trees["weights"], state["hparams"])
    size = np.ones(sum(map(np.size, tree.leaves(right["params"]))))
    ctx.close(again, ctx.numpy(trees["params"]), 1e-5 if ctx.dtype == "float32" else 1e-12, what="respond", scale=size)


@check(*_NEEDS, slow=True)
def self_tuning_moves_leaves_and_scales_when_due(ctx: Context, draw: Draw) -> None:
    """Every `every`-th step after the warm-up, and no other; without an entropy scales stay to the bit; no mutation."""
    number = draw.pick((0, 3), "tuner")
    settings = _TUNERS[number]
    tuner, (leaves, beside) = _tuner(ctx, number), _begun(draw, number)
    state = _state(ctx, tuner, leaves, beside)
    inner, outer = ctx.arrays(gated_batch(draw, _INNER)), ctx.arrays(gated_batch(draw, _OUTER))
    for count in range(1, 6):
        before = _bytes(ctx, state)
        after, info = tuner.step(state, inner, outer)
        assert _bytes(ctx, state) == before, "the state that was passed in changed"
        past = count - settings.get("warmup_steps", 0)
        due = past > 0 and past % settings["every"] == 0
        assert bool(info.tuned) == due, f"step {count}: tuned {info.tuned}, expected {due}"
        for part, moves in (("hparams", due), ("scales", due and settings["entropy"] is not None), ("params", True)):
            same = _bytes(ctx, after[part]) == _bytes(ctx, state[part])
            assert same != moves, f"step {count}: {part} {'stay' if same else 'move'}"
        state = after


@check(*_NEEDS, slow=True)
def self_tuning_skips_or_raises_what_is_not_finite(ctx: Context, draw: Draw) -> None:
    """A NaN in the outer batch: guarded, leaves, scales and outer optimizer stay to the bit; else the step raises."""
    spoilt, inner = gated_batch(draw, _OUTER), ctx.arrays(gated_batch(draw, _INNER))
    spoilt[1][0] = np.nan
    guarded = draw.pick((2, 4), "tuner")
    tuner, (leaves, beside) = _tuner(ctx, guarded), _begun(draw, guarded)
    state = _state(ctx, tuner, leaves, beside)
    after, info = tuner.step(state, inner, ctx.arrays(spoilt))
    assert int(info.event) == Event.SKIPPED, f"event {info.event!r}"
    assert {k: int(v) for k, v in after["events"].items()} == {"clipped": 0, "skipped": 1}, after["events"]
    for part in ("hparams", "scales", "outer_opt_state"):
        assert _bytes(ctx, after[part]) == _bytes(ctx, state[part]), f"{part} changed"
    assert _bytes(ctx, after["params"]) != _bytes(ctx, state["params"]), "the response's step was not taken"
    bare, (leaves, beside) = _tuner(ctx, 0), _begun(draw, 0)
    state, _ = bare.step(_state(ctx, bare, leaves, beside), inner, ctx.arrays(spoilt))
    with refused(NonFinite):
        bare.step(state, inner, ctx.arrays(spoilt))


@check(*_NEEDS, slow=True)
def self_tuning_refuses_noise_and_batches_of_other_shapes(ctx: Context, draw: Draw) -> None:
    """Noise has a row for each draw, or each row of its batch; all arrays of a batch have the same rows."""
    inner, outer = ctx.arrays(gated_batch(draw, _INNER)), ctx.arrays(gated_batch(draw, _OUTER))
    for number in (2, 4):
        tuner, (leaves, beside) = _tuner(ctx, number), _begun(draw, number)
        state, (one, other) = _state(ctx, tuner, leaves, beside), map(ctx.arrays, _noise(draw, number))
        for noise in ((one[:-1], other), (one, other[:, :-1])):
            with refused(InvalidInput, "noise"):
                tuner.step(state, inner, outer, noise=noise)
    tuner, (leaves, beside) = _tuner(ctx, 2), _begun(draw, 2)
    with refused(InvalidInput, "batch"):
        tuner.step(_state(ctx, tuner, leaves, beside), (inner[0], inner[1][:-1]), outer)


@check(*_NEEDS, slow=True)
def self_tuning_refuses_optimizers_by_name(ctx: Context, draw: Draw) -> None:
    """An optimizer, of the response or outer, is a rule, and no number."""
    harness, backend = ctx.harness, ctx.harness.backend
    tuners: Any = backend
    assert harness.optim is not None and harness.adam is not None
    right: dict[str, Any] = {"optimizer": harness.optim.sgd(0.05), "outer_optimizer": harness.adam(0.05)}
    with refused(UnsupportedOptimizer, "optimizer"):
        name = draw.pick(tuple(right), "argument")
        tuners.SelfTuning(gated_problem(harness), hparams={"decay": Real(0.5)}, **{**right, name: 0.05})


def _bytes(ctx: Context, values: Any) -> list[bytes]:
    """The arrays and numbers of a state, whatever trees and tuples they are in."""
    if isinstance(values, dict):
        return [found for name in sorted(values, key=str) for found in _bytes(ctx, values[name])]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(values, (list, tuple)):
        return [found for value in values for found in _bytes(ctx, value)]  # pyright: ignore[reportUnknownVariableType]
    if values is None:
        return []
    return [np.array(ctx.harness.to_numpy(values) if hasattr(values, "dtype") else values).tobytes()]

"""A backend's tuner and the reference's, from the same start along the same batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nestgrad import tree
from nestgrad_conformance.context import REFERENCE, Context


def follow(
    ctx: Context,
    make: Callable[[Context], Any],
    params: Any,
    leaves: Any,
    steps: Sequence[tuple[Any, ...]],
    *,
    beside: Any = None,
    chosen: Any = None,
    limit: float | None = None,
    noises: Sequence[Any] = (),
    also: Sequence[str] = (),
    parts: Sequence[str] = ("total",),
    **options: Any,
) -> tuple[Any, Any]:
    """Assert the same hyperparameters, weights, hypergradients and events at every step; the two states at the end.

    make: the tuner in a context. leaves: unconstrained, in place of the spaces' own; beside: further entries of the
    state. chosen: the numbers of a look-back found by measuring that the run is to begin with. options: of the tuners'
    `init`. limit: relative, 1e-9 in float64 and 1e-3 in float32 unless given. noises: one a step. also: further
    entries of the state that are compared; parts: those of the hypergradient.
    """
    oracle = Context(REFERENCE, "float64")
    tuner, right = make(ctx), make(oracle)
    extra: Any = {} if beside is None else beside
    state = {**tuner.init(ctx.arrays(params), **options), "hparams": ctx.arrays(leaves), **ctx.arrays(extra)}
    other = {**right.init(ctx.seen(params), **options), "hparams": ctx.seen(leaves), **ctx.seen(extra)}
    if chosen is not None:
        state["chosen"], other["chosen"] = dict(chosen), dict(chosen)
    limit = limit or (1e-3 if ctx.dtype == "float32" else 1e-9)
    for number, batches in enumerate(steps):
        noise = {"noise": noises[number]} if noises else {}
        state, info = tuner.step(state, *(ctx.arrays(batch) for batch in batches), **_each(ctx.arrays, noise))
        other, expected = right.step(other, *(ctx.seen(batch) for batch in batches), **_each(ctx.seen, noise))
        for what in ("hparams", "params", *also):
            wanted = tree.map(np.asarray, other[what])
            each = np.ones(sum(np.size(leaf) for leaf in tree.leaves(wanted)))
            ctx.close(state[what], wanted, limit, what=what, scale=each)
        for part in parts:
            _same(ctx, getattr(info.hypergradient, part), getattr(expected.hypergradient, part), part, limit)
        assert bool(info.tuned) == bool(expected.tuned), f"tuned {info.tuned}, expected {expected.tuned}"
        assert int(info.event) == int(expected.event), f"event {info.event!r}, expected {expected.event!r}"
    return state, other


def _each(convert: Callable[[Any], Any], options: dict[str, Any]) -> dict[str, Any]:
    return {name: convert(value) for name, value in options.items()}


def _same(ctx: Context, found: Any, expected: Any, what: str, limit: float) -> None:
    """A part of the hypergradient against the reference's, relative to its largest entry; or both not finite."""
    wanted = tree.map(np.asarray, expected)
    size = np.concatenate([np.reshape(leaf, -1) for leaf in tree.leaves(wanted)])
    largest = np.full(size.size, np.abs(size[np.isfinite(size)]).max(initial=0.0) + 0.1)
    if np.isfinite(size).all():
        ctx.close(found, wanted, limit, what=what, scale=largest)
    else:
        entries = np.concatenate([np.reshape(leaf, -1) for leaf in tree.leaves(ctx.numpy(found))])
        assert not np.isfinite(entries).all(), f"{what} {entries}, expected {size}"

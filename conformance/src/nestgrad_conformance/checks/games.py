"""Games: what players descend, and how they are played, against the reference's dense algebra."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from nestgrad import (
    LOLA,
    SOS,
    CompetitiveGradient,
    Consensus,
    Extragradient,
    LookAhead,
    Simultaneous,
    SymplecticAdjustment,
    tree,
)
from nestgrad_conformance.context import REFERENCE, Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems.games import curved_game
from nestgrad_conformance.registry import check

_DIRECTIONS = (
    Simultaneous(),
    Extragradient(step_size=0.3),
    Consensus(weight=0.4),
    SymplecticAdjustment(weight=0.5),
    SymplecticAdjustment(weight=0.5, align=False),
    LookAhead(look_ahead=0.3),
    LOLA(look_ahead=0.3),
    LOLA(look_ahead=0.3, first_order=True),
    SOS(look_ahead=0.3),
    CompetitiveGradient(step_size=0.3, rtol=1e-5),
)


def _drawn(draw: Draw) -> tuple[Any, np.ndarray]:
    return {"x": {"a": draw.normal(3)}, "y": {"b": draw.normal(3)}}, draw.normal(3, 3)


@check("game_direction")
def players_descend_what_the_reference_descends(ctx: Context, draw: Draw) -> None:
    """Every direction, the joint gradient and the losses, in a curved game of two."""
    method, (players, batch) = draw.pick(_DIRECTIONS, "direction"), _drawn(draw)
    backend: Any = ctx.harness.backend
    oracle: Any = REFERENCE.backend
    found = backend.game_direction(curved_game(ctx.harness), ctx.arrays(players), ctx.arrays(batch), method=method)
    right = oracle.game_direction(curved_game(REFERENCE), ctx.seen(players), ctx.seen(batch), method=method)
    limit = 1e-4 if ctx.dtype == "float32" or isinstance(method, CompetitiveGradient) else 1e-10
    size = 1.0 + sum(float(np.linalg.norm(leaf)) for leaf in tree.leaves(right.gradient))
    ctx.close(found.gradient, right.gradient, limit, what="gradient", scale=np.full(6, size))
    ctx.close(found.direction, right.direction, limit, what="direction", scale=np.full(6, size))
    ctx.close(found.losses, right.losses, limit, what="losses", scale=np.full(2, size))


@functools.cache
def _play(ctx: Context, turns: str) -> Any:
    backend: Any = ctx.harness.backend
    assert ctx.harness.optim is not None
    return backend.Play(
        curved_game(ctx.harness),
        optimizer=ctx.harness.optim.sgd(0.1),
        direction=LookAhead(look_ahead=0.3),
        turns=turns,
    )


@check("Play", "game_direction", "optim")
def games_are_played_as_in_the_reference(ctx: Context, draw: Draw) -> None:
    """Three steps at once, or in turn, each player then seeing those that have moved before it."""
    turns, (players, batch) = draw.pick(("simultaneous", "alternating"), "turns"), _drawn(draw)
    play, oracle = _play(ctx, turns), _play(Context(REFERENCE, "float64"), turns)
    state, right = play.init(ctx.arrays(players)), oracle.init(ctx.seen(players))
    limit = 1e-4 if ctx.dtype == "float32" else 1e-10
    for _ in range(3):
        state, info = play.step(state, ctx.arrays(batch))
        right, wanted = oracle.step(right, ctx.seen(batch))
        size = 1.0 + sum(float(np.linalg.norm(leaf)) for leaf in tree.leaves(right["players"]))
        ctx.close(state["players"], right["players"], limit, what="players", scale=np.full(6, size))
        ctx.close(info.losses, wanted.losses, limit, what="losses", scale=np.full(2, size**3))

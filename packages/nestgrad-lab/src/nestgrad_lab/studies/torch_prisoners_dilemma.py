"""Torch's side of the study of the prisoner's dilemma: descents of many starts at once, and searches that branch."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nestgrad_torch as ng
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.engines.torch_engine import device_named
from nestgrad_lab.studies import torch_two_player_games as games
from nestgrad_lab.studies.prisoners_dilemma_settings import Settings
from nestgrad_lab.studies.study import Arrays, Context

TICKS = 20
"""Steps of play between two ticks."""


def drawn(name: str, count: int, spread: float, seed: int, context: Context) -> Tensor:
    """Normal logits of this deviation, (count, 2, logits)."""
    draw = torch.Generator("cpu").manual_seed(1_000_003 * context.seed + seed)
    size = (count, 2, games.LOGITS.get(name, 1))
    logits = spread * torch.randn(size, generator=draw, dtype=torch.float64, device="cpu")
    return logits.to(device_named(context.device))


def played(settings: Settings, name: str, start: Tensor, direction: ng.Direction, context: Context) -> Arrays:
    """Where the starts (count, 2, logits) end: start, end and losses (count, 2)."""
    play = ng.Play(games.game(name), optimizer=ng.optim.sgd(settings.step_size), direction=direction)
    state = play.init(games.both(start))
    for step in range(settings.steps):
        state, _ = play.step(state)
        if step % TICKS == 0:
            context.tick(step / settings.steps)
    return {"start": _array(start), **_ended(name, games.joined(state["players"]))}


def descended(settings: Settings, name: str, spread: float, context: Context, *, shaping: bool) -> Arrays:
    """From random starts by gradients, or by LOLA."""
    direction = ng.LOLA(look_ahead=settings.look_ahead) if shaping else ng.Simultaneous()
    return played(settings, name, drawn(name, settings.starts, spread, 0, context), direction, context)


def controlled(settings: Settings, name: str, distance: float, context: Context) -> Arrays:
    """As many branches as a search makes from each of its starts, along random directions, in several draws."""
    starts = drawn(name, settings.searches, settings.search_spread, 1, context)
    size = starts[0].numel()
    count = min(settings.directions, size)
    draws = drawn(name, settings.searches * settings.controls * count, 1.0, 2, context)
    shaped = draws.reshape(settings.searches * settings.controls, count, size)
    directions = torch.linalg.qr(shaped.mT).Q.mT.reshape(settings.searches, -1, *starts.shape[1:])
    both = torch.cat([starts[:, None] + sign * distance * directions for sign in (1.0, -1.0)], 1)
    return played(settings, name, both.flatten(0, 1), ng.Simultaneous(), context)


def searched(settings: Settings, name: str, which: int, way: str, context: Context) -> Arrays:
    """One start of the search: where its branches end, the point they begin at, what it cost."""
    place = settings.games.index(name)
    start = drawn(name, settings.searches, settings.search_spread, 1, context)[which]
    plain = ng.Branching(
        distance=settings.distances[place],
        num_directions=min(settings.directions, start.numel()),
        num_steps=settings.exponent_steps,
        refinements=settings.refinements,
        max_steps=settings.steps,
        tolerance=0.0,
        seed=context.seed,
    )
    up = ng.Ascent(optimizer=ng.optim.adam(settings.ascent_rates[place]), steps=settings.ascent_steps[place])
    branching = {
        "no ascent": plain,
        "search": dataclasses.replace(plain, ascent=up),
        "LOLA search": _shaped(settings, plain),
    }[way]
    search = ng.BranchingSearch(
        games.game(name),
        optimizer=ng.optim.sgd(settings.step_size),
        direction=ng.LOLA(look_ahead=settings.shaped_look_ahead) if way == "LOLA search" else ng.Simultaneous(),
        branching=branching,
    )
    state: Any = search.init([games.both(start)])
    point, largest = start, float("nan")
    while not search.finished(state):
        state, info = search.step(state)
        taken: Any = info.taken
        if taken["kind"] == "point":
            point = games.joined(taken["state"]["players"])
            largest = max(entry["exponent"] for entry in state["archive"])
        context.tick(len(state["solutions"]) / (2 * branching.num_directions))
    ends = torch.stack([games.joined(one["players"]) for one in state["solutions"]])
    return {
        "start": _array(start),
        "point": _array(point),
        "exponent": np.array(largest),
        "products": np.array(state["products"]),
        "updates": np.array(state["updates"]),
        "path": np.array([one["path"][-1] for one in state["solutions"]]),
        **_ended(name, ends),
    }


def _shaped(settings: Settings, plain: ng.Branching) -> ng.Branching:
    """The search along LOLA's map."""
    optimizer = ng.optim.adam(settings.shaped_ascent_rate)
    return dataclasses.replace(
        plain,
        distance=settings.shaped_distance,
        num_steps=settings.shaped_exponent_steps,
        refinements=settings.shaped_refinements,
        ascent=ng.Ascent(optimizer=optimizer, steps=settings.shaped_ascent_steps),
    )


def _ended(name: str, ends: Tensor) -> dict[str, Array]:
    losses = games.LOSSES[name](*games.both(ends).values())
    return {"end": _array(ends), "losses": _array(torch.stack(losses, -1))}


def _array(x: Tensor) -> Array:
    return np.asarray(x.detach().cpu().numpy())

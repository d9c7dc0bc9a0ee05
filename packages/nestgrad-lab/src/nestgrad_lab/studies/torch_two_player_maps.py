"""Torch's side of the study of exponents and branches in two dimensions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nestgrad_torch as ng
from nestgrad_lab.data.dataset import Array
from nestgrad_lab.engines.torch_engine import device_named
from nestgrad_lab.studies import torch_two_player_games as games
from nestgrad_lab.studies.study import Arrays, Context
from nestgrad_lab.studies.two_player_maps_settings import Settings

TURN = math.pi / 6
"""The toy's axes are turned by this angle, so that no coordinate is a ridge."""

TOY_REFINEMENTS = 5
"""Of the toy's two directions, which is enough: branches to both sides of any two directions lead on."""


def _options(settings: Settings, name: str) -> dict[str, Any]:
    """What Play and BranchingSearch are told of the game."""
    place = settings.games.index(name)
    ahead = settings.look_aheads[place]
    direction = ng.LOLA(look_ahead=ahead) if ahead else ng.Simultaneous()
    return {"optimizer": ng.optim.sgd(settings.step_sizes[place]), "direction": direction}


def exponents(settings: Settings, name: str, rows: Array, context: Context) -> Array:
    """The largest exponent at each pair of logits, (rows, columns), rows being logits of player one."""
    play = ng.Play(games.game(name), **_options(settings, name))
    method, where = ng.ExponentSpectrum(refinements=settings.refinements), device_named(context.device)
    found = np.empty(rows.shape[:2])
    for k, row in enumerate(torch.tensor(rows, dtype=torch.float64, device=where)):
        for j, logits in enumerate(row):
            state = play.init(games.both(logits[:, None]))
            seen = ng.lyapunov_exponents(play.update, state, num_steps=settings.exponent_steps, method=method)
            found[k, j] = float(seen.exponents.max())
        context.tick((k + 1) / len(rows))
    return found


def searched(settings: Settings, name: str, context: Context) -> Arrays:
    """A search from random starts: starts, points, paths of branches (branches, steps + 1, 2), ends, losses, costs."""
    place = settings.games.index(name)
    branching = ng.Branching(
        distance=settings.distance,
        num_directions=settings.directions,
        num_steps=settings.exponent_steps,
        refinements=settings.refinements,
        ascent=ng.Ascent(optimizer=ng.optim.adam(settings.ascent_rates[place]), steps=settings.ascent_steps[place]),
        max_steps=settings.steps,
        tolerance=0.0,
        seed=context.seed,
    )
    draw = torch.Generator("cpu").manual_seed(context.seed)
    starts = torch.randn(settings.starts, 2, 1, generator=draw, dtype=torch.float64, device="cpu")
    starts = starts.to(device_named(context.device))
    search = ng.BranchingSearch(games.game(name), branching=branching, **_options(settings, name))
    state: Any = search.init([games.both(start) for start in starts])
    points: list[Array] = []
    paths: list[Array] = []
    while not search.finished(state):
        state, info = search.step(state)
        taken: Any = info.taken
        at = games.joined(taken["state"]["players"])
        if taken["kind"] == "point":
            points.append(_array(at[:, 0]))
        elif taken["kind"] == "branch":
            paths.append(_path(search.play, taken["state"], settings.steps))
        context.tick(len(paths) / (2 * settings.directions * settings.starts))
    ends = torch.stack([games.joined(one["players"]) for one in state["solutions"]])
    losses = games.LOSSES[name](*games.both(ends).values())
    return {
        "starts": _array(starts[..., 0]),
        "points": np.stack(points),
        "paths": np.stack(paths),
        "ends": _array(ends[..., 0]),
        "losses": _array(torch.stack(losses, -1)),
        "norms": np.array([one["direction_norm"] for one in state["solutions"]]),
        "products": np.array(state["products"]),
        "updates": np.array(state["updates"]),
    }


def _path(play: ng.Play, state: Any, steps: int) -> Array:
    """The logits on the way, as the search itself will play."""
    seen = [games.joined(state["players"])[:, 0]]
    for _ in range(steps):
        state, _ = play.step(state)
        seen.append(games.joined(state["players"])[:, 0])
    return _array(torch.stack(seen))


def toy_loss(settings: Settings, w: Tensor) -> Tensor:
    """Σ ¼ v_i⁴ - ½ c_i v_i², v being w (..., 2) turned: minima at v_i = ±√c_i, a maximum at 0, saddles between."""
    turn = torch.tensor(
        [[math.cos(TURN), -math.sin(TURN)], [math.sin(TURN), math.cos(TURN)]], dtype=w.dtype, device=w.device
    )
    v = w @ turn
    return (0.25 * v**4 - 0.5 * v.new_tensor(settings.toy_curvatures) * v.square()).sum(-1)


def toy(settings: Settings, context: Context) -> Arrays:
    """Ridge Rider from near the maximum, and gradient descent from as near as that; ends and costs of both."""
    game = ng.Game({"w": lambda p, batch: toy_loss(settings, p["w"]).sum()})
    rule, where = ng.optim.sgd(settings.toy_step), device_named(context.device)
    branching = ng.Branching(
        distance=settings.toy_ridge,
        num_directions=2,
        num_steps=1,
        refinements=TOY_REFINEMENTS,
        least_exponent=0.0,
        ridge=ng.Ridge(step_size=settings.toy_ridge, max_steps=200),
        max_steps=2000,
        tolerance=1e-9,
        max_depth=2,
        seed=context.seed,
    )
    zero = torch.zeros(2, dtype=torch.float64, device=where)
    search = ng.BranchingSearch(game, optimizer=rule, branching=branching)
    state: Any = search.init([{"w": zero}])
    edges: list[list[float]] = []
    before: dict[str, Tensor] = {"[]": zero}
    while not search.finished(state):
        state, info = search.step(state)
        taken: Any = info.taken
        if taken["kind"] == "point":
            path = taken["path"]
            before[str(path)] = taken["state"]["players"]["w"]
            if path:
                edges.append([*before[str(path[:-1])].tolist(), *before[str(path)].tolist()])
    edges += [[*before[str(one["path"][:-1])].tolist(), *one["players"]["w"].tolist()] for one in state["solutions"]]
    context.tick(0.7)
    draw = torch.Generator("cpu").manual_seed(context.seed)
    drawn = torch.randn(settings.toy_starts, 2, generator=draw, dtype=torch.float64, device="cpu").to(where)
    play = ng.Play(game, optimizer=rule)
    plain = play.init({"w": settings.toy_ridge * drawn})
    for _ in range(1000):
        plain, _ = play.step(plain)
    return {
        "edges": np.array(edges),
        "ends": np.stack([_array(one["players"]["w"]) for one in state["solutions"]]),
        "ridden": np.array([one["ridden"] for one in state["solutions"]]),
        "plain": _array(plain["players"]["w"]),
        "products": np.array(state["products"]),
        "updates": np.array(state["updates"]),
        "branches": np.array(state["branches"]),
    }


def _array(x: Tensor) -> Array:
    return np.asarray(x.detach().cpu().numpy())

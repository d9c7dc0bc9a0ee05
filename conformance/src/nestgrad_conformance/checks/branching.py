"""The search that branches where nearby points part: its branches, its limits, and what it finds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from nestgrad import Ascent, Branching, Game, Ridge
from nestgrad_conformance import tolerances
from nestgrad_conformance.context import REFERENCE, Context
from nestgrad_conformance.draws import Draw
from nestgrad_conformance.problems.games import SaddleLoss, WellsLoss
from nestgrad_conformance.registry import check

_NEEDS = ("BranchingSearch", "Play", "lyapunov_exponents", "game_direction", "optim")
_RATE = 0.3


def _search(harness: Any, loss: Any, branching: Branching, batch: Any = None, momentum: float = 0.0) -> Any:
    backend: Any = harness.backend
    game, rule = Game({"only": loss(harness.xp)}), harness.optim.sgd(_RATE, momentum)
    return backend.BranchingSearch(game, optimizer=rule, branching=branching, batch=batch)


def _begun(ctx: Context, search: Any, w: np.ndarray) -> Any:
    return search.init([ctx.arrays({"only": {"w": w}})])


def _place(ctx: Context, entry: Any) -> np.ndarray:
    players = entry["players"] if "players" in entry else entry["state"]["players"]
    return ctx.numpy(players)["only"]["w"]


def _saddle(draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """(H of eigenvalues -1 and 0.5, its eigenvectors as rows)."""
    angle = draw.number(0.0, 3.0, "angle")
    rows = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return rows.T @ np.diag([-1.0, 0.5]) @ rows, rows


def _along(found: np.ndarray, row: np.ndarray, length: float, what: str, limit: float) -> None:
    error = min(float(np.linalg.norm(found - sign * length * row)) for sign in (1.0, -1.0))
    assert error <= limit, f"{what}: {found}, expected ±{length * row}, error {error}, limit {limit}"


@check(*_NEEDS)
def branches_begin_on_both_sides_along_the_leading_directions(ctx: Context, draw: Draw) -> None:
    """T1: at a saddle, x + distance · d_i and x - distance · d_i exactly, the direction that grows most first."""
    (curvature, rows), w = _saddle(draw), draw.normal(2)
    how = Branching(distance=0.1, num_directions=2, num_steps=2, refinements=20)
    search = _search(ctx.harness, SaddleLoss, how, ctx.arrays(curvature))
    begun = _begun(ctx, search, w)
    middle, _ = search.step(begun)
    after, info = search.step(middle)
    assert [entry["kind"] for entry in middle["archive"]] == ["point"], "a start without an ascent is its own point"
    archive, at = after["archive"], ctx.seen(w)
    assert info.taken["kind"] == "point" and [entry["kind"] for entry in archive] == ["branch"] * 4, "4 branches"
    paths = [tuple(tuple(step) for step in entry["path"]) for entry in archive]
    assert paths == [((i, sign),) for i in range(2) for sign in (1, -1)], f"paths {paths}"
    limit = 1e-4 if ctx.dtype == "float32" else 1e-9
    for i in range(2):
        one, other = (_place(ctx, entry) - at for entry in archive[2 * i : 2 * i + 2])
        _along(one, rows[i], 0.1, f"direction {i}", limit)
        error, least = float(np.linalg.norm(one + other)), 10 * tolerances.eps(ctx.dtype) * (1.0 + np.linalg.norm(at))
        assert error <= least, f"{one} and {other} are not opposed: {error}, limit {least}"
    exponents = [entry["exponent"] for entry in archive]
    assert exponents[0] > 0.0 > exponents[2], f"exponents {exponents}, expected of both signs"
    assert len(begun["archive"]) == 1 and not begun["products"], "the state passed in has changed"


@check(*_NEEDS)
def a_branch_of_no_length_is_plain_play(ctx: Context, draw: Draw) -> None:
    """T2: with distance 0 both branches end where the optimizer alone does, with its losses, in as many steps."""
    w, steps = 1.5 * np.tanh(draw.normal(2)), 10
    how = Branching(distance=0.0, num_steps=1, refinements=0, max_steps=steps, tolerance=0.0)
    search = _search(ctx.harness, WellsLoss, how)
    ended = search.run(_begun(ctx, search, w))
    end, found = ctx.seen(w), ended["solutions"]
    for _ in range(steps):
        end = end - _RATE * (end**3 - end)
    assert len(found) == 2, f"{len(found)} solutions, expected 2"
    limit = 100 * tolerances.eps(ctx.dtype)
    for solution in found:
        ctx.close(solution["players"], {"only": {"w": end}}, limit, what="players", scale=np.ones(2))
        loss, right = solution["losses"]["only"], float(np.sum(0.25 * end**4 - 0.5 * end**2))
        assert abs(loss - right) <= limit * 10.0, f"loss {loss}, expected {right}"
        norm, slope = solution["direction_norm"], float(np.linalg.norm(end**3 - end))
        assert abs(norm - slope) <= limit * 10.0, f"direction of length {norm}, expected {slope}"
        assert solution["converged"] == (norm == 0.0), f"converged {solution['converged']} where |direction| is {norm}"
        assert solution["steps"] == steps or norm == 0.0, f"{solution['steps']} steps, expected {steps}"


@check(*_NEEDS)
def both_wells_are_found_from_between_them(ctx: Context, draw: Draw) -> None:
    """T3: of ¼ w⁴ - ½ w², from near 0; and branches that begin too far away are lost, and told of."""
    far, w = draw.pick((False, True), "far"), 0.02 * draw.normal(1)
    how = Branching(distance=50.0 if far else 0.1, num_steps=1, max_steps=300, tolerance=1e-5)
    search = _search(ctx.harness, WellsLoss, how)
    with np.errstate(all="ignore"):
        found = search.run(_begun(ctx, search, w))["solutions"]
    assert len(found) == 2, f"{len(found)} solutions, expected 2"
    norms, steps = [[solution[name] for solution in found] for name in ("direction_norm", "steps")]
    assert all(solution["converged"] != far for solution in found), f"converged {not far} expected; |direction| {norms}"
    if far:
        assert not np.isfinite(norms).any() and max(steps) < 20, f"|direction| {norms} after {steps} steps"
        return
    ends = sorted(float(_place(ctx, solution)[0]) for solution in found)
    assert np.allclose(ends, [-1.0, 1.0], atol=1e-4), f"solutions {ends}, expected -1 and 1"
    assert max(norms) <= 1e-5 and max(steps) < 300, f"|direction| {norms} after {steps} steps, limits 1e-5 and 300"


@check(*_NEEDS)
def a_search_is_that_of_its_seed_and_can_go_on(ctx: Context, draw: Draw) -> None:
    """T4: all of it is the same by the same seed, in one go or from any of its states; other draws by another."""
    w, seed = 0.3 * draw.normal(2), int(draw.rng.integers(1000))
    how = Branching(distance=0.1, num_steps=1, refinements=0, max_steps=30, seed=seed)
    search, other, first = (
        _search(ctx.harness, WellsLoss, each)
        for each in (how, replace(how, seed=seed + 1), replace(how, max_branches=1))
    )
    once = search.run(_begun(ctx, search, w))
    state, taken = _begun(ctx, search, w), 0
    while not search.finished(state):
        state, _ = search.step(state)
        taken += 1
    assert taken == 4, f"{taken} steps, expected a start, a point and two branches"
    assert search.finished(state) == "archive empty", f"stopped by {search.finished(state)!r}"
    ends = [np.stack([_place(ctx, solution) for solution in each["solutions"]]) for each in (once, state)]
    assert np.array_equal(ends[0], ends[1]), f"{ends[0]} and {ends[1]} by the same seed"
    assert (once["products"], once["updates"]) == (state["products"], state["updates"]), "another cost by the same seed"
    one, another = (_second(ctx, each, w) for each in (search, other))
    assert float(np.abs(one - another).max()) > 1e-4, f"{one} by either seed"
    cut = first.run(_begun(ctx, first, w))
    assert first.finished(cut) == "branches" and len(cut["solutions"]) == 1, "one branch was the limit"


def _second(ctx: Context, search: Any, w: np.ndarray) -> np.ndarray:
    """Where the first branch begins."""
    state, _ = search.step(search.step(_begun(ctx, search, w))[0])
    return _place(ctx, state["archive"][0])


@check(*_NEEDS, slow=True)
def a_ridge_of_a_quadratic_is_a_ray(ctx: Context, draw: Draw) -> None:
    """Ridge Rider: from a saddle each branch goes straight along ±d, step by step, and is then optimised."""
    curvature, rows = _saddle(draw)
    ridge = Ridge(step_size=0.05, max_steps=4)
    how = Branching(
        distance=0.1, num_steps=2, refinements=20, least_exponent=0.0, ridge=ridge, max_steps=1, tolerance=0.0
    )
    search = _search(ctx.harness, SaddleLoss, how, ctx.arrays(curvature))
    found = search.run(_begun(ctx, search, np.zeros(2)))["solutions"]
    assert [solution["ridden"] for solution in found] == [4, 4], "each branch has 4 steps to ride"
    limit = 1e-4 if ctx.dtype == "float32" else 1e-9
    ends = [_place(ctx, solution) for solution in found]
    _along(ends[0], rows[0], (0.1 + 4 * 0.05) * (1.0 + _RATE), "end of a branch", limit)
    assert float(np.linalg.norm(ends[0] + ends[1])) <= limit, f"{ends} are not opposed"


@check(*_NEEDS, slow=True)
def ascents_end_where_the_references_do(ctx: Context, draw: Draw) -> None:
    """Three steps up the largest exponent, or the sum of two, of momentum in the wells."""
    w = ctx.seen(np.array([0.5, 0.9]) + 0.03 * draw.normal(2))
    objective = draw.pick(("largest", "sum"), "objective")
    ends: list[np.ndarray] = []
    for context in (ctx, Context(REFERENCE, "float64")):
        ascent = Ascent(optimizer=context.harness.optim.sgd(0.05), steps=3, objective=objective, num_exponents=2)
        how = Branching(distance=0.1, num_steps=3, refinements=20, ascent=ascent)
        search = _search(context.harness, WellsLoss, how, momentum=0.2)
        state, _ = search.step(_begun(context, search, w))
        ends.append(_place(context, state["archive"][0]))
        products = state["products"]
        assert products >= 3 * 3 * 2, f"{products} products, limit at least 18"
    moved, limit = float(np.linalg.norm(ends[1] - w)), 1e-3 if ctx.dtype == "float32" else 1e-7
    assert moved > 1e-5, f"the ascent has moved by {moved}"
    error = float(np.linalg.norm(ends[0] - ends[1]))
    assert error <= limit, f"{ends[0]}, expected {ends[1]}: error {error}, limit {limit}"

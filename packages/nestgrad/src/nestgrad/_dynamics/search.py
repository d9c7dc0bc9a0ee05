"""The search itself: an archive, taken from by priority; a backend explores, nestgrad._dynamics.branching says how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict

from nestgrad._dynamics.branching import Ascent, Branching
from nestgrad._errors import InvalidInput


class Entry(TypedDict):
    """One of the archive's: a start, a point or a branch.

    state: of play there. path: (direction, sign) at each branching that led there. exponent, loss: what it is ranked
    by. directions: of a branch that is to ride, those at its point, as a tree with a leading axis; else None.
    """

    number: int
    kind: str
    state: Any
    path: list[tuple[int, int]]
    exponent: float
    loss: float
    directions: Any


class Solution(TypedDict):
    """Where a branch has ended.

    converged: whether |direction| came to the tolerance; where that norm is not finite, the branch was lost. exponent:
    the largest at the end, NaN where it was not looked for (at max_depth, or with least_exponent None). steps: of the
    optimizer, after those ridden on a ridge.
    """

    number: int
    players: Any
    losses: dict[str, float]
    path: list[tuple[int, int]]
    converged: bool
    direction_norm: float
    exponent: float
    steps: int
    ridden: int


class SearchState(TypedDict):
    """A plain tree: what is still to be done, what has been found, and what it has cost.

    products: with Jacobians of a step, or their transposes. updates: steps of the optimizer, those within exponents
    among them. entries: how many the archive has ever held; branches: how many were optimised.
    """

    archive: list[Entry]
    solutions: list[Solution]
    products: int
    updates: int
    entries: int
    branches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchInfo:
    """What one step took from the archive, and why the search is over ("" while it is not)."""

    taken: Entry | None
    stopped: Literal["", "archive empty", "products", "branches"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Products with Jacobians of a step, and steps of the optimizer."""

    products: int = 0
    updates: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The leading exponents at a state, as numbers, and their directions as a tree with a leading axis."""

    exponents: Sequence[float]
    directions: Any
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """Where a branch has come to: the state, each player's loss and the joint direction's norm there."""

    state: Any
    losses: dict[str, float]
    direction_norm: float
    steps: int
    cost: Cost


class Explorer(Protocol):
    """What a backend does for the search; all numbers but those of states are Python's."""

    def begin(self, players: Any) -> Any:
        """The state of play at the players."""
        ...

    def mean_loss(self, state: Any) -> float:
        """Of all players."""
        ...

    def ascend(self, state: Any, ascent: Ascent, seed: int) -> tuple[Any, Cost]:
        """The state after the ascent, its optimizer's state that of a new beginning."""
        ...

    def spread(self, state: Any, num_exponents: int, seed: int) -> Spread:
        """The leading exponents; fewer where the state has fewer entries."""
        ...

    def moved(self, state: Any, directions: Any, which: int, distance: float) -> Any:
        """state + distance · d_which."""
        ...

    def ride(self, state: Any, directions: Any, which: int, sign: int) -> tuple[Any, int, Cost]:
        """(the state at the end of the ridge, its steps, the cost)."""
        ...

    def descend(self, state: Any, max_steps: int) -> Descent:
        """Optimise until |direction| is ≤ tolerance or not finite, or for max_steps; of the state returned."""
        ...


def begin_search(explorer: Explorer, starts: Any) -> SearchState:
    """An archive of the starts."""
    given: list[Any] = starts if isinstance(starts, list) else []  # pyright: ignore[reportUnknownVariableType]
    if not given:
        raise InvalidInput(
            f"BranchingSearch.init: starts is {starts!r}, limit: a list of 1 or more players' params. "
            "Remedy: pass [players]."
        )
    state: SearchState = {
        "archive": [],
        "solutions": [],
        "products": 0,
        "updates": 0,
        "entries": 0,
        "branches": 0,
    }
    for players in given:
        at = explorer.begin(players)
        _put(state, "start", at, [], math.inf, explorer.mean_loss(at))
    return state


def search_step(explorer: Explorer, how: Branching, state: SearchState) -> tuple[SearchState, SearchInfo]:
    """Take the first entry of the archive and do with it what its kind asks; the state passed in is not changed."""
    if stopped := why_stopped(how, state):
        return state, SearchInfo(taken=None, stopped=stopped)
    after: SearchState = {
        **state,
        "archive": list(state["archive"]),
        "solutions": list(state["solutions"]),
    }
    taken = min(after["archive"], key=lambda entry: _rank(how, entry))
    after["archive"] = [entry for entry in after["archive"] if entry["number"] != taken["number"]]
    match taken["kind"]:
        case "start":
            _start(explorer, how, after, taken)
        case "point":
            _branch(explorer, how, after, taken)
        case _:
            _optimise(explorer, how, after, taken)
    return after, SearchInfo(taken=taken, stopped=why_stopped(how, after))


def _start(explorer: Explorer, how: Branching, state: SearchState, taken: Entry) -> None:
    at = taken["state"]
    if how.ascent is not None:
        at, cost = explorer.ascend(at, how.ascent, how.seed + taken["number"])
        _pay(state, cost)
    _put(state, "point", at, [], math.inf, explorer.mean_loss(at))


def _branch(explorer: Explorer, how: Branching, state: SearchState, taken: Entry) -> None:
    spread = explorer.spread(taken["state"], how.num_directions, how.seed + taken["number"])
    _pay(state, spread.cost)
    for which, exponent in enumerate(spread.exponents):
        if how.least_exponent is not None and not exponent > how.least_exponent:
            continue
        for sign in (1, -1):
            at = explorer.moved(taken["state"], spread.directions, which, sign * how.distance)
            directions = None if how.ridge is None else spread.directions
            path = [*taken["path"], (which, sign)]
            _put(state, "branch", at, path, exponent, explorer.mean_loss(at), directions)


def _optimise(explorer: Explorer, how: Branching, state: SearchState, taken: Entry) -> None:
    """To the branch's end, or to the first bifurcation on its way."""
    at, ridden, taken_steps, exponent = taken["state"], 0, 0, math.nan
    if taken["directions"] is not None:
        which, sign = taken["path"][-1]
        at, ridden, cost = explorer.ride(at, taken["directions"], which, sign)
        _pay(state, cost)
    state["branches"] += 1
    least = how.least_exponent if len(taken["path"]) < how.max_depth else None
    while True:
        left = how.max_steps - taken_steps
        down = explorer.descend(at, min(left, how.watch_every) if least is not None and how.watch_every else left)
        _pay(state, down.cost)
        at, taken_steps = down.state, taken_steps + down.steps
        converged = down.direction_norm <= how.tolerance
        lost = not math.isfinite(down.direction_norm)
        if least is not None and not lost:
            spread = explorer.spread(at, 1, how.seed + taken["number"])
            _pay(state, spread.cost)
            exponent = spread.exponents[0]
            if exponent > least:
                _put(state, "point", at, taken["path"], exponent, explorer.mean_loss(at))
                return
        if converged or lost or taken_steps >= how.max_steps or not down.steps:
            break
    state["solutions"].append(
        {
            "number": taken["number"],
            "players": at["players"],
            "losses": down.losses,
            "path": taken["path"],
            "converged": converged,
            "direction_norm": down.direction_norm,
            "exponent": exponent,
            "steps": taken_steps,
            "ridden": ridden,
        }
    )


def _put(
    state: SearchState,
    kind: str,
    at: Any,
    path: list[tuple[int, int]],
    exponent: float,
    loss: float,
    directions: Any = None,
) -> None:
    entry: Entry = {
        "number": state["entries"],
        "kind": kind,
        "state": at,
        "path": path,
        "exponent": exponent,
        "loss": loss,
        "directions": directions,
    }
    state["archive"].append(entry)
    state["entries"] += 1


def _pay(state: SearchState, cost: Cost) -> None:
    state["products"] += cost.products
    state["updates"] += cost.updates


def _rank(how: Branching, entry: Entry) -> tuple[float, float, int]:
    """What is least comes first."""
    late, depth = float(entry["kind"] == "branch"), len(entry["path"])
    match how.priority:
        case "exponent":
            return late, -entry["exponent"], entry["number"]
        case "loss":
            return late, entry["loss"] if math.isfinite(entry["loss"]) else math.inf, entry["number"]
        case "breadth":
            return late, depth, entry["number"]
        case "depth":
            return 0.0, -depth, entry["number"]


def why_stopped(how: Branching, state: SearchState) -> Literal["", "archive empty", "products", "branches"]:
    """Why the search is over; "" while it is not."""
    if not state["archive"]:
        return "archive empty"
    if how.max_products is not None and state["products"] >= how.max_products:
        return "products"
    if how.max_branches is not None and state["branches"] >= how.max_branches:
        return "branches"
    return ""
